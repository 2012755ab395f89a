"""A small Arch Linux, made of real packages of pacman's: written, signed, indexed."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.bench import rpm_repository
from tests.bench.once import once

PROGRAMS = ("pacman", "gpg", "gpgv", "busybox")
BUILT = 1_700_000_000  # seconds since 1970
APPLETS = ("cat", "cp", "echo", "grep", "id", "ls", "mkdir", "rm", "sh", "test", "true", "wc")
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nlp:x:4:7:lp:/:/bin/false\n"
INSTALL = b"""\
post_install() {
    echo gone > /dev/null
    cat /etc/os-release /proc/self/comm > /etc/hello.made
}
"""
Files = dict[str, tuple[int, bytes]]
"""By path: the mode with its kind, and the content, or a link's target."""

DIRECTORY, FILE, LINK = 0o040000, 0o100000, 0o120000


def have_programs() -> bool:
    """Whether this host has pacman, and what checks its packages."""
    return all(map(shutil.which, PROGRAMS))


def make(base: Path) -> Path:
    """Copy the run's repository, keys and all, to ``base``; return the directory that is served.

    It has core/os/ARCHITECTURE, and the keyring site.gpg.
    """
    # gpg-agent, which was told to end, may not have removed its sockets yet.
    sockets = shutil.ignore_patterns("S.gpg-agent*")
    shutil.copytree(once("pacman", _make), base, dirs_exist_ok=True, ignore=sockets)
    return base / "www"


def index(where: Path, name: str = "core") -> None:
    """Write the index of the packages in a directory."""
    with tarfile.open(where / f"{name}.db", "w:gz") as archive:
        for file in sorted(where.glob("*.pkg.tar.gz")):
            facts = _facts(file)
            entry = tarfile.TarInfo(f"{facts['%NAME%']}-{facts['%VERSION%']}/desc")
            text = "".join(f"{field}\n{value}\n\n" for field, value in facts.items()).encode()
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))


def _facts(file: Path) -> dict[str, str]:
    content = file.read_bytes()
    with tarfile.open(file) as archive:
        about = archive.extractfile(".PKGINFO")
        assert about
        pairs = [line.split(" = ") for line in about.read().decode().splitlines()]
    wants = "\n".join(value for key, value in pairs if key == "depend")
    info = dict(pairs)
    return {
        "%FILENAME%": file.name,
        "%NAME%": info["pkgname"],
        "%VERSION%": info["pkgver"],
        "%CSIZE%": str(len(content)),
        "%ISIZE%": "4096",
        "%SHA256SUM%": hashlib.sha256(content).hexdigest(),
        "%ARCH%": info["arch"],
        "%BUILDDATE%": info["builddate"],
        **({"%DEPENDS%": wants} if wants else {}),
    }


def _make(base: Path) -> None:
    where = base / "www/core/os" / os.uname().machine
    where.mkdir(parents=True)
    busybox = Path(shutil.which("busybox") or "busybox").read_bytes()
    directories = ("dev", "etc", "proc", "root", "sys", "tmp", "usr", "usr/bin", "var", "var/log")
    layout: Files = dict.fromkeys(directories, (DIRECTORY | 493, b""))
    layout |= {"tmp": (DIRECTORY | 0o1777, b""), "root": (DIRECTORY | 0o750, b"")}
    layout |= {"bin": (LINK | 0o777, b"usr/bin"), "etc/passwd": (FILE | 0o644, PASSWD)}
    layout |= {"etc/group": (FILE | 0o644, b"root:x:0:\nlp:x:7:\n")}
    layout |= {"etc/os-release": (FILE | 0o644, b"ID=mini\nNAME=Mini\n")}
    shell: Files = {"usr/bin/busybox": (FILE | 0o755, busybox)}
    shell |= {f"usr/bin/{name}": (LINK | 0o777, b"busybox") for name in APPLETS}
    hello: Files = {
        "usr/bin/hello": (FILE | 0o755, b"#!/bin/sh\necho hello\n"),
        "usr/bin/elevated": (FILE | 0o4755, busybox),
        "etc/hello.conf": (FILE | 0o640, b"plain\n"),
    }
    files = [
        package(where, "filesystem", layout),
        package(where, "busybox", shell, depends=("filesystem",)),
        package(where, "base", {}, depends=("busybox",)),
        package(where, "hello", hello, depends=("base",), install=INSTALL),
        package(where, "wanting", {}, depends=("no-such-thing",)),
    ]
    export = ("--output", str(base / "www/site.gpg"), "--export")
    rpm_repository.key_pair(base / "site", "site", *export)
    rpm_repository.key_pair(
        base / "stranger", "stranger", "--output", str(base / "www/stranger.gpg"), "--export"
    )
    for file in files:
        sign(file, base / "site")
    index(where)


def sign(file: Path, home: Path) -> None:
    """Sign a package with the key in a directory of gpg's."""
    gpg = ["gpg", "--homedir", str(home), "--batch", "--yes", "--detach-sign", str(file)]
    subprocess.run(gpg, check=True, capture_output=True)
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def package(
    where: Path, name: str, files: Files, *, depends: tuple[str, ...] = (), install: bytes = b""
) -> Path:
    """Write a package, version 1-1."""
    lines = [f"pkgname = {name}", "pkgver = 1-1", f"pkgdesc = {name}", f"builddate = {BUILT}"]
    lines += ["packager = nobody", "size = 4096", "arch = any"]
    lines += [f"depend = {each}" for each in depends]
    target = where / f"{name}-1-1-any.pkg.tar.gz"
    with tarfile.open(target, "w:gz") as archive:
        texts: dict[str, tuple[int, bytes]] = {
            ".PKGINFO": (FILE | 0o644, "".join(f"{line}\n" for line in lines).encode())
        }
        texts |= {".INSTALL": (FILE | 0o644, install)} if install else {}
        for path, (mode, content) in [*texts.items(), *sorted(files.items())]:
            entry = tarfile.TarInfo(path)
            entry.mode, entry.mtime = mode & 0o7777, BUILT
            entry.uid, entry.gid = (4, 7) if path == "etc/hello.conf" else (0, 0)
            kind = mode & ~0o7777
            entry.type = {DIRECTORY: tarfile.DIRTYPE, LINK: tarfile.SYMTYPE}.get(
                kind, tarfile.REGTYPE
            )
            entry.linkname = content.decode() if kind == LINK else ""
            entry.size = len(content) if kind == FILE else 0
            archive.addfile(entry, io.BytesIO(content) if kind == FILE else None)
    return target
