"""Bootstrap: debootstrap. Debian, Ubuntu and their relatives from their archives.

    resolve     signed Release ─▶ Packages index ─▶ the exact list of packages (pins)
    bootstrap   packages, checked ─▶ a small local archive, unpacked ─▶ the host's debootstrap

All downloading is done here, once, in parallel and into a cache; debootstrap
then installs exactly what was pinned, whatever happens to the mirror meanwhile.
"""

from __future__ import annotations

import contextlib
import re
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from singbuild import (
    HostError,
    ImageError,
    Keyword,
    Needs,
    Pins,
    Program,
    Rootfs,
    Source,
    SourceError,
    command,
    hookimpl,
)
from singbuild.download import Fetched, Remote, fetch_all
from singbuild_debootstrap import local_archive
from singbuild_debootstrap.archive import open_archive
from singbuild_debootstrap.choice import check, choose
from singbuild_debootstrap.packages import cached_selection

LOG = "/debootstrap/debootstrap.log"
AVAILABLE = "/var/lib/dpkg/available"  # debootstrap writes the paragraphs of its index there
STEP = re.compile(r"I: (Extracting|Unpacking|Configuring) \S+\.\.\.")
FETCHING = re.compile(r"I: (Retrieving|Validating|Found|Checking component) ")
# In a user namespace or a container it may not mount, and goes on without.
UNMOUNTED = re.compile(r"W: Failure trying to run: chroot \S+ mount |W: See \S*/debootstrap.log ")
SECOND_STAGE = ("/debootstrap/debootstrap", "--second-stage")
# What debootstrap, and the packages' scripts in the image, see.
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    # Nobody's, here and in the image: dpkg would read the .dpkg.cfg of this host's root.
    "HOME": "/nonexistent",
    "LC_ALL": "C",
    "DEBIAN_FRONTEND": "noninteractive",
    # The scratch does not outlive the build: dpkg need not wait until each file is on the disk.
    # Without the first two, its own defaults, the variable would switch them off: dpkg(1).
    "DPKG_FORCE": "security-mac,downgrade,unsafe-io",
    # It has debootstrap take the devices that are there, and not try to make one.
    "container": "lxc",
}
LEFT_BEHIND = (
    "var/log/bootstrap.log",
    "var/log/dpkg.log",
    "var/log/alternatives.log",
    "var/log/apt/*",
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*.deb",
    "var/lib/apt/lists/*",
)


@hookimpl
def singbuild_needs() -> Needs:
    """OSVersion is all that a recipe must say; debootstrap itself asks for wget."""
    return Needs(
        keywords=(
            Keyword("OSVersion", "the suite, as bookworm or stable", required=True),
            Keyword(
                "MirrorURL",
                "http(s) or file URL of the archive, or a mirror's name in singbuild.conf; without "
                "it the distribution's mirror there, else that of the host's apt, else "
                "debootstrap's own",
            ),
            Keyword("Include", "more packages, separated by spaces or commas"),
            Keyword("Variant", "minbase, buildd, or standard", default="minbase"),
            Keyword("Components", "parts of the archive, as main contrib", default="main"),
            Keyword("Keyring", "file of the keys that may sign the archive"),
            Keyword(
                "AllowExpired",
                "yes: take an archive whose Valid-Until is past, or whose key has expired since: "
                "a snapshot, or a suite that is signed no more",
                default="no",
            ),
        ),
        programs=(
            Program("debootstrap", "debootstrap"),
            Program("gpgv", "gpgv"),
            Program("prlimit", "util-linux"),
            Program("wget", "wget"),
        ),
        space=700 << 20,
        root=True,
    )


@hookimpl
def singbuild_check(source: Source) -> None:
    """Refuse a suite that this host's debootstrap does not know, or whose keys it has not got."""
    check(source)


@hookimpl
def singbuild_resolve(source: Source) -> Pins:
    """Verify the archive's state and list every package that will be installed."""
    choice = choose(source)
    archive = open_archive(choice, source)
    return {
        "mirror": choice.mirror,
        "suite": choice.suite,
        "codename": archive.codename,
        "components": list(choice.components),
        "variant": choice.variant,
        "architecture": choice.arch,
        "include": list(choice.include),
        "epoch": archive.epoch,
        "release": archive.identity,
        "packages": cached_selection(choice, archive, source.cache),
    }


@hookimpl
def singbuild_bootstrap(source: Source, pins: Pins, rootfs: Rootfs) -> bool:
    """Fetch the pinned packages and let debootstrap install them."""
    debs = _fetch(pins, source)
    with rootfs.temporary_directory() as archive:
        local_archive.write(archive, pins, debs)
        _debootstrap(archive, pins, rootfs)
    _tidy(pins, rootfs)
    return True


def _fetch(pins: Pins, source: Source) -> dict[str, Fetched]:
    """Return each package's file."""
    packages: Mapping[str, Any] = pins["packages"]
    remotes = [
        Remote(f"{pins['mirror']}/{_inside(package['file'])}", package["sha256"], package["size"])
        for package in packages.values()
    ]
    label = f"Fetching {len(remotes)} packages"
    files = fetch_all(remotes, source.cache, report=source.report, label=label)
    return dict(zip(packages, files, strict=True))


def _inside(file: str) -> str:
    """Return a path of the archive; one that leads out of it is hostile."""
    if file.startswith("/") or ".." in PurePosixPath(file).parts:
        raise SourceError(f"the archive names a package outside itself: {file}")
    return file


def _debootstrap(archive: Path, pins: Pins, rootfs: Rootfs) -> None:
    """Unpack the packages with the host's debootstrap, and configure them with its copy inside.

    So no script of a package is executed where it could see the host.
    """
    listener = _Listener(rootfs, len(pins["packages"]))
    with rootfs.devices(), rootfs.plain_path() as target:
        argv = [
            "debootstrap",
            "--foreign",
            # This archive is our own: its packages have the digests of an index whose
            # digest is in a Release file whose signature gpgv has verified.
            "--no-check-gpg",
            f"--arch={pins['architecture']}",
            f"--variant={'-' if pins['variant'] == 'standard' else pins['variant']}",
            "--components=main",
            f"--include={','.join(pins['packages'])}",
            pins["suite"],
            target,
            "file:.",  # the current directory, whose name debootstrap thus need not quote
        ]
        env = ENVIRONMENT | {"PATH": command.environment()["PATH"]}
        done = rootfs.host(
            argv, env=env, inherit=False, directory=archive, on_line=listener, check=False
        )
    if done.status == 0:
        variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        # Its error has what was printed; the one below has debootstrap's log, which says more.
        with contextlib.suppress(HostError):
            rootfs.run(["/usr/bin/env", "-i", *variables, *SECOND_STAGE], on_line=listener)
            return
    last: Sequence[str] = done.tail
    with contextlib.suppress(OSError, ImageError):
        last = rootfs.read(LOG).decode(errors="replace").splitlines()[-20:]
    raise HostError(
        "debootstrap failed",
        why="\n".join([*listener.complaints, *last]),
        remedy="The last lines of its log, above, name the package that is at fault.",
    )


class _Listener:
    """Turns debootstrap's output into progress, lines and warnings."""

    def __init__(self, rootfs: Rootfs, packages: int) -> None:
        self.report, self.packages = rootfs.report, packages
        self.steps: Counter[str] = Counter()
        self.complaints: list[str] = []

    def __call__(self, line: str) -> None:
        if step := STEP.match(line):
            self.steps[step[1]] += 1
            # A package may be configured again, when a trigger of it is pulled.
            done = min(self.steps[step[1]], self.packages)
            self.report.progress(step[1], done, self.packages)
        elif UNMOUNTED.match(line):
            self.report.line(line[3:])
        elif line.startswith("W: "):
            self.report.warn(line[3:])
        elif line.startswith("E: "):
            self.complaints.append(line[3:])
        elif not FETCHING.match(line):
            self.report.line(line.removeprefix("I: "))


def _tidy(pins: Pins, rootfs: Rootfs) -> None:
    """Leave nothing of the host or of this build in the image."""
    for pattern in LEFT_BEHIND:
        for path in rootfs.glob(pattern):
            status = rootfs.status(path, follow=False)
            if status and not stat.S_ISDIR(status.st_mode):
                rootfs.remove(path)
    # debootstrap copies the host's, and the host's resolv.conf.
    rootfs.write("/etc/hostname", "localhost\n")
    rootfs.write("/etc/resolv.conf", "")
    rootfs.write("/etc/apt/sources.list", _sources(pins))
    if rootfs.status(AVAILABLE):
        available = rootfs.read(AVAILABLE).decode(errors="surrogateescape")
        original = local_archive.as_fetched(available, pins["packages"])
        rootfs.write(AVAILABLE, original.encode(errors="surrogateescape"))


def _sources(pins: Pins) -> str:
    """Return sources.list as debootstrap writes it; a directory of the host is no mirror inside."""
    if not pins["mirror"].startswith("http"):
        return ""
    words: Sequence[str] = ["deb", pins["mirror"], pins["suite"], *pins["components"]]
    return " ".join(words) + "\n"
