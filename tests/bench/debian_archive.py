"""A small Debian: an archive on disk of what dpkg and a shell need, signed by a key of the tests.

Its packages are real ones, downloaded by the machine's own apt. All but apt, which is empty here:
whoever bootstraps installs it, and it would bring as many libraries as all others.
"""

from __future__ import annotations

import hashlib
import lzma
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from debian.arfile import ArFile
from debian.debfile import DebFile

from tests.bench.once import once
from tests.bench.rpm_repository import key_pair

# What debootstrap's script names, and what the packages' own scripts execute.
PACKAGES = (
    *("base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "diffutils", "dpkg"),
    *(
        "findutils",
        "grep",
        "gzip",
        "libc-bin",
        "libc6",
        "mawk",
        "mount",
        "netbase",
        "perl-base",
        "sed",
    ),
    "tar",
)
# Other programs of the name awk, and what they need; bash's documentation.
OTHERS = (
    *("gawk", "original-awk", "libmpfr6", "libreadline8", "libsigsegv2", "readline-common"),
    *("install-info",),
)
PRIORITIES = {"apt": "important", "netbase": "optional"}
XZ = b"\xfd7zX"
APT = "Package: apt\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: empty\n"


SUITE = platform.freedesktop_os_release()["VERSION_CODENAME"]
"""This host's release."""


@dataclass(frozen=True)
class Archive:
    """An archive of this host's release. place: its directory; keyring: the file of its key."""

    place: Path

    @property
    def keyring(self) -> Path:
        return self.place / "keyring.gpg"

    def header(self, url: str) -> str:
        """Header lines of a recipe that takes it from where it is served."""
        return f"OSVersion: {SUITE}\nMirrorURL: {url}\nKeyring: {self.keyring}"


def archive() -> Archive:
    """The archive of this run of the tests."""
    return Archive(once("debian", _make))


def _make(base: Path) -> None:
    pool = base / "pool"
    pool.mkdir(mode=0o777)
    pool.chmod(0o777)  # apt's downloads are another user's
    names = [*_with_dependencies(PACKAGES)]
    subprocess.run(["apt-get", "download", "-q", *names], cwd=pool, check=True, capture_output=True)
    for path in pool.glob("*.deb"):
        _unpack(path)
    for path in pool.glob("*%3a*"):  # an epoch's colon, as apt writes it; a URL says it otherwise
        path.rename(pool / path.name.replace("%3a", "."))
    (base / "apt/DEBIAN").mkdir(parents=True)
    (base / "apt/DEBIAN/control").write_text(APT)
    build = ["dpkg-deb", "--build", "-Znone", str(base / "apt"), str(pool / "apt.deb")]
    subprocess.run(build, check=True, capture_output=True)
    architecture = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
    index = base / f"dists/{SUITE}/main/binary-{architecture}/Packages"
    index.parent.mkdir(parents=True)
    index.write_text("\n".join(_stanza(path) for path in sorted(pool.glob("*.deb"))))
    content = index.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    release = (
        f"Suite: stable\nCodename: {SUITE}\nDate: Sat, 02 Jan 2021 00:00:00 UTC\n"
        f"Architectures: {architecture}\nComponents: main\n"
        f"SHA256:\n {digest} {len(content)} main/binary-{architecture}/Packages\n"
    )
    (base / f"dists/{SUITE}/Release").write_text(release)
    _sign(base, base / f"dists/{SUITE}")


def _unpack(path: Path) -> None:
    """Keep a package's files uncompressed: to unpack xz was a sixth of each small Debian."""
    with path.open("rb") as file:
        archive = ArFile(fileobj=file)
        names = [name.partition(".xz")[0] for name in archive.getnames()]
        contents = [member.read() for member in archive.getmembers()]
    parts = path.with_suffix(".parts")
    parts.mkdir()
    for name, content in zip(names, contents, strict=True):
        (parts / name).write_bytes(lzma.decompress(content) if content[:4] == XZ else content)
    path.unlink()
    subprocess.run(["ar", "rcSD", path, *names], cwd=parts, check=True)
    shutil.rmtree(parts)


def _with_dependencies(names: tuple[str, ...]) -> set[str]:
    """Return packages with all that they depend on; of two that will do, none but mawk."""
    packages = subprocess.check_output(["apt-cache", "pkgnames"], text=True).split()
    names += ("usr-is-merged",) * ("usr-is-merged" in packages)
    argv = ["apt-cache", "depends", "--recurse", "--important", *names]
    lines = subprocess.check_output(argv, text=True).splitlines()
    return {line for line in lines if line[0] not in " <|"} - {*OTHERS}


def _stanza(path: Path) -> str:
    with DebFile(path) as file:
        control = file.debcontrol()
    content = path.read_bytes()
    control["Priority"] = PRIORITIES.get(control["Package"], "required")
    control["Filename"] = f"pool/{path.name}"
    control["Size"] = str(len(content))
    control["SHA256"] = hashlib.sha256(content).hexdigest()
    text: str = control.dump()
    return text


def _sign(base: Path, dists: Path) -> None:
    home = base / "gnupg"
    key_pair(home, "archive", "--output", str(base / "keyring.gpg"), "--export")
    gpg = ["gpg", "--homedir", str(home), "--batch", "--clear-sign"]
    argv = [*gpg, "--output", str(dists / "InRelease"), str(dists / "Release")]
    subprocess.run(argv, check=True, capture_output=True)
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
