"""Finds a static busybox for an image and checks it, without executing it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from singbuild import HostError, Pins, RecipeKeyError, Source, SourceError, command
from singbuild.download import fetch, is_open_line, keep, locked, stored

if TYPE_CHECKING:
    from debian.debfile import DebFile

PACKAGE = "busybox-static"
LARGEST = 64 << 20  # bytes of a binary or a package; Debian's have 2 MB and 1 MB
ON_HOST = ("/bin/busybox", "/bin/busybox.static", "/usr/bin/busybox-static")
MACHINES = {  # uname -m: e_machine of elf(5)
    "x86_64": "EM_X86_64",
    "aarch64": "EM_AARCH64",
    "armv6l": "EM_ARM",
    "armv7l": "EM_ARM",
    "i686": "EM_386",
    "loongarch64": "EM_LOONGARCH",
    "mips64": "EM_MIPS",
    "ppc64le": "EM_PPC64",
    "riscv64": "EM_RISCV",
    "s390x": "EM_S390",
}
DAMAGE = (
    *(tarfile.TarError, lzma.LZMAError, zlib.error),
    *(EOFError, KeyError, OSError, ValueError),
)


def find_binary(source: Source) -> Pins:
    """Return what pins the binary: where it is from, its version and digest, its package if any.

    The store ``source.cache`` then has it under its digest. Raises SourceError, RecipeKeyError.
    """
    place = source.keywords.get("MirrorURL", "")
    content, origin, label = _read_named(place, source) if place else _find_on_host(source)
    binary, package = _binary_of(content, label)
    version = _check(binary, source.arch, label)
    file = keep(binary, source.cache, source.report)
    return {"from": origin, **package, "version": version, "sha256": file.sha256}


def _read_named(place: str, source: Source) -> tuple[bytes, str, str]:
    """Return the file that the recipe's MirrorURL means, what kind of place that was, its name."""
    expected = source.keywords.get("SHA256", "").lower()
    if expected and not re.fullmatch("[0-9a-f]{64}", expected):
        raise RecipeKeyError("SHA256", f"SHA256: {expected!r} is not 64 hexadecimal digits")
    if not expected and is_open_line(place):
        expected = _locked(source, place)
    if not re.fullmatch("[a-z0-9][a-z0-9+.-]+", place) or Path(place).exists():
        file = fetch(place, source.cache, report=source.report, sha256=expected, size_limit=LARGEST)
        return file.read(), "URL" if "://" in place else "file", place
    content = _package(place, source)
    sha256 = hashlib.sha256(content).hexdigest()
    if expected not in ("", sha256):
        raise SourceError(
            f"the package {place} has the wrong SHA-256",
            why=f"expected {expected}\n     got {sha256}",
            remedy="This host's apt has another version of it; give the digest of that one.",
        )
    return content, "package", place


def _locked(source: Source, place: str) -> str:
    """Return the digest that a lock has for the file of a URL. Raises RecipeKeyError."""
    sha256 = str(source.locked.get("package_sha256") or source.locked.get("sha256"))
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise RecipeKeyError(
            "MirrorURL",
            f"MirrorURL: {place} comes over plain http",
            why="Anybody on the way can put another program in its place.",
            remedy="Add SHA256: the digest of the file, or give an https URL or a path.",
        )
    return sha256


def _find_on_host(source: Source) -> tuple[bytes, str, str]:
    """Return a static busybox of the host, else the one that Debian packages."""
    if "SHA256" in source.keywords:
        remedy = "Add MirrorURL: the file that the digest belongs to."
        raise RecipeKeyError("SHA256", "SHA256 is given without a file", remedy=remedy)
    for path in map(Path, filter(None, (command.which("busybox"), *ON_HOST))):
        try:
            content = path.read_bytes()
            _check(content, source.arch, str(path))
        except (OSError, SourceError):  # not there, or a dynamic one: it will not do
            continue
        return content, "host", str(path)
    source.report.line(f"no static busybox on this host: taking the package {PACKAGE}")
    return _package(PACKAGE, source), "package", PACKAGE


def _package(name: str, source: Source) -> bytes:
    """Return a Debian package as the host's apt fetches and verifies it."""
    try:
        with locked(source.cache / "apt.lock", source.report, name):
            with contextlib.suppress(SourceError):
                return stored(source.cache, _apt_digest(name), LARGEST)
            return _download(name, source)
    except HostError as error:
        raise SourceError(
            f"the package {name} cannot be had from this host's apt",
            why=error.why or error.what,
            remedy="Run apt-get update, put a static busybox on this host, or give MirrorURL.",
        ) from error


def _apt_digest(name: str) -> str:
    """Return the digest of the package that apt would download; "?" when it does not say."""
    offer = command.output(["apt-get", "download", "--print-uris", name])
    digests = re.findall(r"SHA256:([0-9a-f]{64})$", offer, re.M)
    return digests[0] if digests else "?"


def _download(name: str, source: Source) -> bytes:
    directory = source.cache / "apt"
    directory.mkdir(exist_ok=True)
    for left_over in directory.glob("*.deb"):  # by a build that was killed
        left_over.unlink()
    # Else apt downloads as its user _apt, who may not enter our cache.
    argv = ["apt-get", "download", "-o", "APT::Sandbox::User=root", name]
    command.run(argv, cwd=directory, on_line=source.report.line)
    deb = next(directory.glob("*.deb"), None)
    if deb is None:
        raise HostError("apt-get download has left no package")
    content = deb.read_bytes()
    keep(content, source.cache, source.report)
    deb.unlink()
    return content


def _binary_of(content: bytes, label: str) -> tuple[bytes, dict[str, str]]:
    """Return the binary that a file is or holds, and what identifies the package around it."""
    if not content.startswith(b"!<arch>\n"):
        return content, {}
    # Imported here, 13 ms: most binaries are the host's.
    from debian.arfile import ArError
    from debian.debfile import DebError, DebFile

    try:
        with DebFile(fileobj=io.BytesIO(content)) as deb:
            control = deb.debcontrol()
            package = {"package": control["Package"], "package_version": control["Version"]}
            binary = next(_members(deb), b"")
    except (ArError, DebError, *DAMAGE) as error:
        raise SourceError(f"{label}: is a damaged Debian package", why=str(error)) from error
    if not binary:
        raise SourceError(f"{label}: holds no busybox", remedy=f"Try the package {PACKAGE}.")
    return binary, package | {"package_sha256": hashlib.sha256(content).hexdigest()}


def _members(deb: DebFile) -> Iterator[bytes]:
    """Yield the content of the files that are called busybox."""
    archive = deb.data.tgz()
    for member in archive:
        if member.isfile() and PurePosixPath(member.name).name == "busybox":
            file = archive.extractfile(member)
            yield file.read(LARGEST) if file else b""


def _check(binary: bytes, arch: str, label: str) -> str:
    """Return the version of a static busybox for this machine; refuse everything else."""
    # Imported here, 18 ms: `singbuild plan` looks at no binary.
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(io.BytesIO(binary))
        machine, segments = elf["e_machine"], list(elf.iter_segments())
    except (ELFError, ValueError, OverflowError) as error:
        raise SourceError(f"{label}: is not a program", why=str(error)) from error
    if machine != MACHINES.get(arch, machine):
        why = f"it is for {machine}, and this build is for {arch} ({MACHINES[arch]})"
        raise SourceError(f"{label}: is for another machine", why=why)
    if any(segment["p_type"] == "PT_INTERP" for segment in segments):
        raise SourceError(
            f"{label}: is dynamically linked",
            why="the libraries that it needs are not in the image",
            remedy=f"Use a static one, as in the Debian package {PACKAGE}.",
        )
    if any(segment["p_offset"] + segment["p_filesz"] > len(binary) for segment in segments):
        raise SourceError(f"{label}: is truncated", remedy="Fetch it again.")
    version = re.search(rb"BusyBox v(\d[\w.]*)", binary)
    if not version:
        raise SourceError(f"{label}: is a program, but not busybox")
    return version[1].decode()
