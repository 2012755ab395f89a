"""Bootstrap: tarball. A root file system from one tar archive."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from singbuild import (
    Defaults,
    Keyword,
    Needs,
    Pins,
    RecipeKeyError,
    Rootfs,
    Source,
    SourceError,
    hookimpl,
)
from singbuild.download import fetch

PIECE = 1 << 20  # bytes
OPEN: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}


@hookimpl
def singbuild_needs() -> Needs:
    """Two keywords and no host program; the owners in the archive are why it needs root."""
    return Needs(
        keywords=(
            Keyword("URL", "http(s) or file URL, or path, of a tar archive", required=True),
            Keyword("SHA256", "digest of the archive, 64 hexadecimal digits"),
        ),
        root=True,
    )


@hookimpl
def singbuild_resolve(source: Source) -> Pins:
    """Fetch the archive; its digest is all that a build depends on."""
    sha256 = source.keywords.get("SHA256", "").lower()
    if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise RecipeKeyError("SHA256", f"SHA256: {sha256!r} is not 64 hexadecimal digits")
    archive = fetch(source.keywords["URL"], source.cache, report=source.report, sha256=sha256)
    return {"url": source.keywords["URL"], "sha256": archive.sha256, "size": archive.size}


@hookimpl
def singbuild_bootstrap(source: Source, pins: Pins, rootfs: Rootfs) -> bool:
    """Unpack it; the engine's unpacker lets no entry leave the image."""
    url, report = pins["url"], source.report
    archive = fetch(url, source.cache, report=report, sha256=pins["sha256"])
    rootfs.unpack([_pieces(archive.path, archive.size, rootfs)])
    return True


@hookimpl
def singbuild_defaults(pins: Pins) -> Defaults:
    """Say where the tree is from."""
    return Defaults(labels={"Tarball": f"{pins['url']} sha256:{pins['sha256']}"})


def _pieces(path: Path, size: int, rootfs: Rootfs) -> Iterator[bytes]:
    """Yield the archive uncompressed; progress counts what was read of the file."""
    with path.open("rb") as raw:
        head = raw.read(6)
        raw.seek(0)
        unpack = next((f for magic, f in OPEN.items() if head.startswith(magic)), None)
        stream = unpack(raw) if unpack else raw
        try:
            while piece := stream.read(PIECE):
                rootfs.report.progress("Unpacking", raw.tell(), size)
                yield piece
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, OSError) as error:
            raise SourceError(f"{path}: the archive is damaged", why=str(error)) from error
