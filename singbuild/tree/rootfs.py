"""The one handle to the tree that is being built; backends and sections know nothing else of it.

Every path given to it is a path *inside* the image, and leads nowhere else (``root_directory.py``).
Programs that work on it see the image, or the host read-only (``chroot.py``).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from singbuild import command
from singbuild.contract import Reporter
from singbuild.errors import HostError, SourceError
from singbuild.ext3.node import Owner, shown
from singbuild.ext3.reader.image import Image
from singbuild.ext3.records import MAX_TIME
from singbuild.file_tree import FileTree
from singbuild.formats.loading import image_digest, opened
from singbuild.privilege import container_init, recorder
from singbuild.tar.extract import Unpacker
from singbuild.tar.write import archive, hashed
from singbuild.tree import chroot
from singbuild.tree.baseline import Baseline
from singbuild.tree.layers import Layers
from singbuild.tree.root_directory import Inside, RootDirectory
from singbuild.tree.volatile import is_in_place

DEVICES = {  # the kernel's Documentation/admin-guide/devices.txt
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "console": (5, 1),
    "ptmx": (5, 2),
}


class Rootfs(RootDirectory):
    """A root file system under construction.

    root: its directory on the host, for host programs that fill a directory;
    report: where output goes; owners: of entries to which the host could not give
    them, by path, for the seal; journal: the file of owners that programs asked for, as
    ``privilege/recorder.py`` writes it; epoch: later times become it, but for those of a source,
    which ``baseline`` knows; layers: mounts images below it, None where nothing may be mounted;
    is_untrusted: it holds the tree of an image that was made elsewhere.
    """

    def __init__(
        self,
        root: Path,
        report: Reporter,
        journal: Path | None = None,
        epoch: int = MAX_TIME,
        layers: Layers | None = None,
    ) -> None:
        super().__init__(root)
        self.layers = layers
        self._journal = journal if journal and journal.exists() else None
        self.baseline = Baseline(epoch)
        self.report = report
        self._furnished = False
        self.is_untrusted = False

    @property
    def variables(self) -> dict[str, str]:
        """Return what programs that work on the tree get in their environment beyond the usual.

        The build's date, once it is known: https://reproducible-builds.org/specs/source-date-epoch/
        """
        epoch = self.baseline.epoch
        return {"SOURCE_DATE_EPOCH": str(epoch)} if epoch < MAX_TIME else {}

    @contextlib.contextmanager
    def temporary_directory(self) -> Iterator[Path]:
        """Make an empty directory on the host, for the time of a with-block.

        It lies beside the tree, so no program of the image sees it, and goes with the scratch.
        """
        with tempfile.TemporaryDirectory(dir=self.root.parent) as directory:
            yield Path(directory)

    @contextlib.contextmanager
    def plain_path(self) -> Iterator[str]:
        """Yield a path of ``root`` without blanks or quotes, for programs of ``host``."""
        fd = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield container_init.TREE if chroot.may_mount() else f"/proc/{os.getpid()}/fd/{fd}"
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def devices(self) -> Iterator[None]:
        """Make /dev/null and its kin in the image, in working order for the time of a with-block.

        Where this process may make none, they are recorded for the image, and lent by the host.
        """
        self.mkdir("/dev")
        with contextlib.ExitStack() as stack:
            for name, number in DEVICES.items():
                self.device(f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(*number))
                # Programs see the tree without devices of its own.
                is_made = stat.S_ISCHR(_mode(self.status(f"/dev/{name}")))
                if name in container_init.DEVICES and (chroot.may_mount() or not is_made):
                    stack.enter_context(chroot.bound(name, self.path(f"/dev/{name}")))
            yield

    @contextlib.contextmanager
    def furnished(self) -> Iterator[None]:
        """Mount a /dev of its own over the image's for the time of a with-block.

        For programs of the host that execute others in the image: with ``host``, which mounts
        /proc and /sys there too.
        """
        self._furnished = True
        try:
            with chroot.furnished(self.root):
                yield
        finally:
            self._furnished = False

    def recorded_owners(self, *, warn: bool = False) -> dict[bytes, Owner]:
        """Return all owners and devices that the host could not give, by path, as of now.

        warn: warn of entries whose group is unknown: see ``recorder.without_group``.
        """
        if not self._journal:
            return dict(self.owners)
        recorded_owners = recorder.owners(self.root, self._journal, self.owners)
        if warn and (lacking := recorder.without_group(self.root, recorded_owners)):
            more = f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
            self.report.warn(
                f"{shown(lacking[0])}{more} may lack the group of the set-group-id directory: "
                "give it with chown in %post"
            )
        return recorded_owners

    def unpack(self, archives: Iterable[Iterable[bytes]], *, whiteouts: bool = False) -> None:
        """Unpack tar archives over what is there, one after the other; nothing leaves the image.

        archives: each uncompressed, in pieces of any size; whiteouts: they are an image's
        layers. What they bring is not normalised. Raises SourceError naming the entry, and
        OSError when the disk is full.
        """
        self._unpack(archives, whiteouts=whiteouts, is_baseline=self.baseline.wants)

    def _unpack(
        self,
        archives: Iterable[Iterable[bytes]],
        *,
        whiteouts: bool = False,
        is_baseline: Callable[[bytes, int], bool],
    ) -> None:
        with Unpacker(
            self.root, self.report, whiteouts=whiteouts, owners=self.owners, is_baseline=is_baseline
        ) as unpacker:
            for archive in archives:
                unpacker.apply(archive)
        self.baseline.record(self.root, unpacker.baseline_paths)

    def unpack_below(self, inside: Inside, archive: Iterable[bytes]) -> None:
        """Unpack a tar archive in a directory, which is the root for its names and links.

        So has it Docker's ADD, which changes its root: github.com/moby/go-archive, chrootarchive.
        Raises as ``unpack``, also for what is no directory.
        """
        with contextlib.ExitStack() as stack:
            try:
                fd = stack.enter_context(self.directory(inside))
            except NotADirectoryError as error:
                raise SourceError(
                    f"no archive can be unpacked in {inside}", why="It is no directory."
                ) from error
            top = self._inside(fd, ".")
            prefix = top + b"/" if top else b""
            below = [path for path in self.owners if path == top or path.startswith(prefix)]
            owners = {path[len(prefix) :]: self.owners.pop(path) for path in below}

            def from_root(path: bytes) -> bytes:
                return prefix + path if path else top

            unpacker = Unpacker(
                Path(f"/proc/self/fd/{fd}"),
                self.report,
                owners=owners,
                is_baseline=lambda path, mtime: self.baseline.wants(from_root(path), mtime),
            )
            with unpacker:
                unpacker.apply(archive)
            self.owners.update((from_root(path), owner) for path, owner in owners.items())
            self.baseline.record(self.root, map(from_root, unpacker.baseline_paths))

    def unpack_image(self, path: Path, *, sha256: str = "") -> None:
        """Unpack the tree of an image of any kind over what is there: owners, attributes and all.

        sha256: the digest that ``image_digest`` gave before. Raises ImageError for a file that is
        no image or a damaged one, SourceError for an image with another digest.
        """
        changed = SourceError(f"{path}: was changed while it was read", remedy="Build again.")
        total = hashlib.sha256()
        with contextlib.ExitStack() as stack:
            file = path
            # Somebody else could show another image between two looks at its digest.
            if sha256 and path.is_file() and _may_others_write(path):
                file = stack.enter_context(self.temporary_directory()) / "image"
                shutil.copyfile(path, file)
                if image_digest(file) != sha256:
                    raise changed
            with opened(file) as image:
                self.unpack([hashed(archive(image), total)])
            # Of a directory that is the digest; a file's bytes are read anew, and last, so that a
            # change while the tree was unpacked shows as well.
            digest = total.hexdigest() if path.is_dir() else sha256 and image_digest(file)
        if sha256 and digest != sha256:
            raise changed

    def unpack_tree(self, image: FileTree) -> None:
        """Unpack the tree of an open image likewise."""
        self.unpack([archive(image)])

    def restore(self, path: Path, source: Mapping[str, bool]) -> None:
        """Restore a tree from its image: as a lower layer of overlayfs(5), or unpacked.

        source: what ``Baseline.saved`` returned for it.
        """
        self.mount_layers([path])
        self.restore_layers([path], source)

    def mount_layers(self, images: Sequence[Path], base: str = "") -> None:
        """Mount images below this empty tree, topmost first, where that is possible.

        base: names the topmost in the cache.
        """
        if self.layers:
            self.layers.mount(images, base)

    def unmount_layers(self) -> None:
        """Leave the tree as empty as it was before ``mount_layers``."""
        if self.layers:
            self.layers.unmount()

    def restore_layers(self, images: Sequence[Path], source: Mapping[str, bool]) -> bool:
        """Restore the tree of images that ``mount_layers`` got; return whether that is possible.

        A single one that could not be mounted is unpacked.
        """
        if not (self.layers and self.layers.changes):
            if len(images) > 1:
                return False
            with (
                Image(images[0]) as image,
                Unpacker(self.root, self.report, owners=self.owners) as unpacker,
            ):
                unpacker.apply(archive(image))
        self.baseline.restore(self.root, source)
        return True

    def adopt(self, archive: Iterable[bytes]) -> None:
        """Unpack an archive of files of the host, which are the source's and not normalised.

        Bytecode is left to normalising, since the seal changes the time of its source.
        """
        self._unpack([archive], is_baseline=lambda path, _mtime: is_in_place(path))

    def host(
        self,
        argv: Sequence[command.Word],
        *,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
        directory: Path | None = None,
        writable: Sequence[Path] = (),
        inherit: bool = True,
        check: bool = True,
    ) -> command.Completed:
        """Execute a host program on the tree, showing and logging its output.

        It sees the host read-only but for ``root``, ``writable`` and its TMPDIR, so that no link in
        the tree leads it out; where nothing may be mounted, it is executed as it is. directory:
        where it works; env: added to the plain environment, or with inherit=False all of it;
        on_line: gets the lines instead of the user; check: HostError when it fails.
        """
        if self.is_untrusted and not chroot.may_mount():
            raise HostError(
                f"{os.fspath(argv[0])} cannot be kept from following links of the image out of it",
                why="Nothing may be mounted here, and the image was made before this build.",
                remedy="Begin with an empty image, or build where mounts are allowed.",
            )
        more = self.variables | dict(env or {})
        # The host's /tmp is read-only to it; /dev is a tmpfs of its container.
        temporary = {"TMPDIR": "/dev/shm"} if chroot.may_mount() else {}  # noqa: S108 - its own
        done = chroot.host(
            self.root,
            argv,
            env=command.environment(temporary | more) if inherit else env or {},
            directory=directory or Path.cwd(),
            writable=writable,
            furnished=self._furnished,
            on_line=on_line or self.report.line,
        )
        return command.checked(done) if check else done

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> command.Completed:
        """Execute a program of the image, in the image, as root.

        Raises HostError when it fails; ``path`` tells whether it is there.
        """
        show = on_line or self.report.line
        done = chroot.call(self.root, argv, env=self.variables | dict(env or {}), on_line=show)
        if done.status:
            raise HostError(
                f"{argv[0]} failed in the image with status {done.status}",
                why="\n".join(done.tail),
                remedy=f"The command was: {done.pasted}",
            )
        return done


def _may_others_write(path: Path) -> bool:
    status = path.stat()
    return status.st_uid != os.geteuid() or bool(status.st_mode & 0o022)


def _mode(status: os.stat_result | None) -> int:
    return status.st_mode if status else 0
