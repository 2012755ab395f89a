"""What comes into an image from outside: a tar archive, or files that cp copies."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from singbuild import command
from singbuild.errors import ImageError, SourceError, UsageError
from singbuild.tree.rootfs import Rootfs

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_PIECE = 1 << 20
_PACKED: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
    (b"\x28\xb5\x2f\xfd", zstd.ZstdFile),
)
_LETTERS = frozenset("adfHLPprRnuvxT")
_WORDS = (
    "archive", "dereference", "force", "no-clobber", "no-dereference", "no-preserve",
    "no-target-directory", "one-file-system", "preserve", "recursive", "reflink",
    "remove-destination", "sparse", "strip-trailing-slashes", "update", "verbose",
)  # fmt: skip


def archive(name: str) -> Iterator[bytes]:
    """Yield a tar archive's bytes, uncompressed. name: a file, "-" for standard input.

    Takes gzip, bzip2, xz and zstd by their first bytes. Raises SourceError.
    """
    shown = "on standard input" if name == "-" else name
    try:
        with contextlib.ExitStack() as stack:
            file = io.BufferedReader(stack.enter_context(io.FileIO(0 if name == "-" else name)))
            packing = next(
                (kind for magic, kind in _PACKED if file.peek(6).startswith(magic)), None
            )
            plain = stack.enter_context(packing(file)) if packing else file
            while piece := plain.read(_PIECE):
                yield piece
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError) as error:
        raise SourceError(
            f"cannot read the archive {shown}",
            why=str(error),
            remedy="Is it whole? tar -tvf says what is in it.",
        ) from error


def copy(
    rootfs: Rootfs,
    options: Sequence[str],
    sources: Sequence[str],
    destination: str,
    *,
    as_root: bool,
) -> None:
    """Copy files of the host into the image, as cp(1) with these options.

    A name that is there is removed before it is written, so that no link of the image
    leads a copy out of it. What an ordinary user copies belongs to root in the image.
    Raises ImageError with cp's words.
    """
    for source in sources:
        if not os.path.lexists(source):
            raise ImageError(f"there is no {source} to copy", remedy="Check the spelling.")
    where = str(rootfs.path(destination))
    if destination.endswith("/"):
        where += "/"
    own = ["--remove-destination"]
    if not as_root:
        own.append("--no-preserve=ownership")
    argv = ["cp", *options, *own, "--", *sources, where]
    done = command.call(argv, on_line=rootfs.report.line, package="coreutils")
    if done.status:
        why = "\n".join(done.tail).replace(str(rootfs.root), "")
        raise ImageError(f"cannot copy to {destination}", why=why, remedy="The image is unchanged.")


def check_options(options: Sequence[str]) -> None:
    """Refuse options of cp that make no sense here, or could lead out of the image.

    Raises UsageError.
    """
    for word in options:
        name = word[2:].partition("=")[0]
        known = name in _WORDS if word.startswith("--") else _LETTERS.issuperset(word[1:])
        if not known:
            raise UsageError(
                f"copy does not take cp's option {word}",
                remedy="It takes -a -d -f -H -L -P -p -r -n -u -v -x -T and their long names.",
            )
