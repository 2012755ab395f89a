"""Writes an archive of the pinned packages alone, from which debootstrap installs them.

Their data is unpacked in it: debootstrap and dpkg would each unpack it again, which takes xz most
of their time, and on one core. deb(5), ar(5).
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, cast

from debian.debfile import DebFile

from singbuild import HostError, Pins
from singbuild.download import Fetched, digest

_AT_ONCE = min(4, len(os.sched_getaffinity(0)))
"""How many packages are unpacked at once: a decoder of Debian's packages takes up to 64 MiB."""
_PACKED, _DATA = "data.tar.xz", "data.tar"
_CHUNK = 1 << 20
_ABOUT = re.compile(
    r"(?P<before>^Package: (?P<name>\S+)\n(?:.+\n)*?)Size: \d+\nSHA256: [0-9a-f]{64}\n", re.M
)


def write(where: Path, pins: Pins, debs: Mapping[str, Fetched]) -> None:
    """Write a Release file, an index, and the packages. debs: each package's file, by its name."""
    index = "main/binary-{architecture}/Packages".format_map(pins)
    dists = where / "dists" / pins["suite"]
    (dists / index).parent.mkdir(parents=True)
    packages: Mapping[str, Any] = pins["packages"]
    pool = ThreadPoolExecutor(_AT_ONCE, "unpack")
    try:
        stanzas = pool.map(lambda name: _add(where, packages[name], debs[name]), debs)
        text = "".join(stanzas)
    finally:
        pool.shutdown(cancel_futures=True)
    (dists / index).write_text(text)
    whole = text.encode()
    sha256 = hashlib.sha256(whole).hexdigest()
    (dists / "Release").write_text(
        f"Suite: {pins['suite']}\nCodename: {pins['codename']}\nComponents: main\n"
        f"SHA256:\n {sha256} {len(whole)} {index}\n"
    )


def as_fetched(index: str, packages: Mapping[str, Any]) -> str:
    """Return paragraphs of the index with the sizes and digests that the pinned packages have."""

    def about(match: re.Match[str]) -> str:
        package = packages.get(match["name"])
        if not package:
            return match[0]  # the file calls itself otherwise: debootstrap has said so
        return f"{match['before']}Size: {package['size']}\nSHA256: {package['sha256']}\n"

    return _ABOUT.sub(about, index)


def _add(where: Path, package: Mapping[str, Any], deb: Fetched) -> str:
    """Add a package; return its paragraph of the index: its own, with what says where it is."""
    deb.check()
    copy = where / deb.path.name
    try:
        with DebFile(deb.path) as file:
            control = file.debcontrol()
            with copy.open("wb") as out:
                _write_unpacked(file, out)
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise  # of the disk
        # The file is what the archive's index says it is, so the reader is at fault.
        remedy = "Install the package zstd." if "unzstd" in str(error) else ""
        raise HostError(
            f"{package['file']}: cannot be read", why=str(error), remedy=remedy
        ) from error
    about = {"Priority": package["priority"], "Filename": copy.name}
    control.update(about | {"Size": str(copy.stat().st_size), "SHA256": digest(copy)})
    return control.dump() + "\n"


def _write_unpacked(file: DebFile, out: IO[bytes]) -> None:
    """Write a package anew, its data unpacked. ar(5): a header of 60 bytes before each member."""
    out.write(b"!<arch>\n")
    for member in file.getmembers():
        begin = out.tell()
        out.write(bytes(60))
        member.seek(0)  # DebFile has read some of them
        if member.name == _PACKED:
            with lzma.open(cast("IO[bytes]", member)) as data:
                shutil.copyfileobj(data, out, _CHUNK)
        else:
            shutil.copyfileobj(member, out, _CHUNK)
        name = _DATA if member.name == _PACKED else member.name
        mode, size = member.fmode.decode(), out.tell() - begin - 60
        owner = f"{member.mtime:<12}{member.owner:<6}{member.group:<6}"
        out.seek(begin)
        out.write(f"{name:<16}{owner}{mode:<8}{size:<10}`\n".encode())
        out.seek(0, os.SEEK_END)
        out.write(b"\n" * (size % 2))
