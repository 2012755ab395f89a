"""--nv, --rocm, --fabric: the host's drivers in an image, if the image can bear them.

A driver's libraries must be those of the running kernel, so they come from the
host; the C library stays the image's, so what they need of it is compared
first. The loader would say the same, but only once the program runs.
"""

import glob
import os

from singrun.config import Site
from singrun.errors import RunError, say
from singrun.hardware import elf
from singrun.hardware.driver_lists import COMPLETE, KINDS, REMEDIES, driver_words
from singrun.hardware.elf import Library
from singrun.hardware.linker import Host, Inside
from singrun.images.fuse import host_program
from singrun.mounts.root import Root
from singrun.mounts.rows import Bind, BindUnlessSeen, Fresh, Mount
from singrun.request import HardwareOptions

_LIBRARIES, _PROGRAMS = "/.singularity.d/libs", "/.singularity.d/bin"
# Directories that come behind the image's own in these variables.
APPENDED_DIRECTORIES = {b"LD_LIBRARY_PATH": _LIBRARIES.encode(), b"PATH": _PROGRAMS.encode()}
_C_LIBRARY = "libc.so.6"
_OF_C_LIBRARY = (_C_LIBRARY, "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "ld-")


class Drivers:
    """What the options ask for, found on the host; RunError says what this host lacks."""

    def __init__(self, options: HardwareOptions, site: Site) -> None:
        self._site, self._host = site, Host(site.word["linker cache"])
        self._by_site = options.by_site
        self._kinds: list[str] = []
        self._devices: dict[str, list[str]] = {}
        self._libraries: dict[str, dict[str, list[str]]] = {}
        for kind in [kind for kind in KINDS if getattr(options, kind)]:
            try:
                self._devices[kind] = self._host_devices(kind)
                self._libraries[kind] = self._host_libraries(kind)
                self._kinds.append(kind)
            except RunError as error:
                if kind == "fabric":
                    raise
                # Sites say --nv for all jobs, also for those on nodes without a GPU.
                self._warn(kind, error)

    def plan(self) -> str:
        """Return a line for each kind, for --plan."""
        return "".join(
            f"{len(self._libraries[kind])} libraries of the host on {_LIBRARIES}, devices"
            f" {' '.join(self._devices[kind])}: --{kind}\n"
            for kind in self._kinds
        )

    def rows(self, root: Root, image: str) -> list[Mount]:
        """Return the mounts for the image's ``root``. RunError where it cannot bear them."""
        if not self._kinds:
            return []
        fresh = [Fresh("tmpfs", place, mode="0755") for place in (_LIBRARIES, _PROGRAMS)]
        rows: list[Mount] = [*fresh]
        for kind in self._kinds:
            try:
                libraries = _Fit(kind, self._host, root, image).all_of(self._libraries[kind])
            except RunError as error:
                if kind not in self._by_site:
                    raise
                self._warn(kind, error)
                continue
            why = f"--{kind}"
            rows += [
                Bind(path, f"{_LIBRARIES}/{name}", why=why) for name, path in libraries.items()
            ]
            programs = self._host_programs(kind)
            rows += [Bind(p, f"{_PROGRAMS}/{os.path.basename(p)}", why=why) for p in programs]
            files = [path for w in driver_words(self._site, kind, "file") for path in glob.glob(w)]
            rows += [BindUnlessSeen(p, p, why=why) for p in (*self._devices[kind], *files)]
        for row in rows:
            row.trace = False
        return list({row.target: row for row in rows}.values())

    def _warn(self, kind: str, error: RunError) -> None:
        word = f"always use {kind}, in {self._site.path}" if kind in self._by_site else f"--{kind}"
        reasons = filter(None, (f"{error.what}.", error.why, error.remedy))
        say("\n  ".join([f"Without effect: {word}", *reasons]))

    def _host_devices(self, kind: str) -> list[str]:
        words = driver_words(self._site, kind, "device")
        devices = sorted(path for word in words for path in glob.glob(word))
        if words and not devices:
            what = f"There is no device {' or '.join(words)}, which --{kind} needs"
            raise RunError(what, remedy=REMEDIES[kind])
        return devices

    def _host_libraries(self, kind: str) -> dict[str, list[str]]:
        """Return the host's files by library name; there may be one for each machine type."""
        words, libraries = driver_words(self._site, kind, "library"), dict[str, list[str]]()
        for word in words:
            for path in glob.glob(word) if "/" in word else ():
                libraries.setdefault(os.path.basename(path), []).append(path)
            for name in () if "/" in word else self._host.names(word):
                libraries.setdefault(name, self._host.paths(name))
            if not libraries:
                what = f"The host has no {word}, which --{kind} needs"
                why = f"{self._site.word['linker cache']} does not list it (ldconfig -p)."
                raise RunError(what, why=why, remedy=REMEDIES[kind])
        return libraries

    def _host_programs(self, kind: str) -> list[str]:
        words = driver_words(self._site, kind, "program")
        return [path for word in words if (path := word if "/" in word else host_program(word))]


class _Fit:
    """Compares the host's libraries with an image's, for the option ``kind``."""

    def __init__(self, kind: str, host: Host, root: Root, image: str) -> None:
        self._kind, self._host, self._image = kind, host, image
        self._inside = Inside(root)
        self._libraries_inside: dict[str, Library | None] = {}
        own = self._of_image(_C_LIBRARY)
        if not own:
            why = f"It has no {_C_LIBRARY}, so its programs are static or use another C library."
            raise self._error(f"Cannot use --{kind} with {image}", why)
        self._c_library = own

    def all_of(self, libraries: dict[str, list[str]]) -> dict[str, str]:
        """Return a file for each name, and for each library they need and the image lacks."""
        files: dict[str, str] = {}
        waiting = list(libraries.items())
        while waiting:
            name, paths = waiting.pop()
            files[name], library = self._for_machine(paths)
            for needed in {*library.needed_libraries, *library.required_versions} - {
                *files,
                *libraries,
            }:
                own = self._of_image(needed)
                if own:
                    self._check_versions(files[name], needed, library, own)
                elif needed.startswith(_OF_C_LIBRARY):
                    raise self._error(files[name], f"It needs {needed}, which the image lacks.")
                elif self._kind in COMPLETE and (more := self._host.paths(needed)):
                    waiting.append((needed, more))
        return dict(sorted(files.items()))

    def _for_machine(self, paths: list[str]) -> tuple[str, Library]:
        """Return the first file that is for the image's machine."""
        libraries = [(path, self._of_host(path)) for path in paths]
        for path, library in libraries:
            if library.machine == self._c_library.machine:
                return path, library
        path, library = libraries[0]
        why = f"It is for {library.machine}, the image for {self._c_library.machine}."
        raise self._error(path, why)

    def _check_versions(self, path: str, name: str, library: Library, own: Library) -> None:
        defined = own.defined_versions
        missing = [v for v in library.required_versions.get(name, ()) if v not in defined]
        if missing:
            family = missing[-1].partition("_")[0] + "_"
            newest = max(
                (v for v in defined if v.startswith(family)),
                key=_order,
                default="none",
            )
            why = f"It needs {max(missing, key=_order)} of {name}; the image's has up to {newest}."
            raise self._error(path, why)

    def _of_image(self, name: str) -> "Library | None":
        if name not in self._libraries_inside:
            fd = self._inside.open(name)
            try:
                self._libraries_inside[name] = elf.read(fd) if fd >= 0 else None
            except (elf.ElfError, OSError) as error:
                what = f"Cannot use --{self._kind} with {self._image}"
                raise self._error(what, f"Its {name} cannot be read: {error}.") from None
            finally:
                if fd >= 0:
                    os.close(fd)
        return self._libraries_inside[name]

    def _of_host(self, path: str) -> Library:
        try:
            with open(path, "rb") as file:
                return elf.read(file.fileno())
        except (elf.ElfError, OSError) as error:
            raise self._error(path, f"The host's file cannot be read: {error}.") from None

    def _error(self, what: str, why: str) -> RunError:
        """Return the error; what: a sentence, or the path of a library of the host."""
        if what.startswith("/"):
            what = f"Cannot bring {what} into {self._image} (--{self._kind})"
        remedy = "Build the image from a distribution as new as the host's"
        remedy += f", or leave --{self._kind} out."
        return RunError(what, why=why, remedy=remedy)


def _order(version: str) -> list[int]:
    """Return what sorts GLIBC_2.4 before GLIBC_2.34; names without numbers come first."""
    words = version.rpartition("_")[2].split(".")
    return [int(word) for word in words] if all(word.isdecimal() for word in words) else []
