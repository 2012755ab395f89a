"""What comes into an image from outside: a tar archive, or files that cp copies."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from singbuild import command
from singbuild.compression import inflated
from singbuild.errors import ImageError, SourceError, UsageError
from singbuild.privilege import recorder
from singbuild.tree import chroot
from singbuild.tree.rootfs import Rootfs

_PIECE = 1 << 20
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
    what = f"cannot read the archive {'on standard input' if name == '-' else name}"
    remedy = "Is it whole? tar -tvf says what is in it."
    try:
        with io.FileIO(0 if name == "-" else name) as file:
            yield from inflated(iter(lambda: file.read(_PIECE), b""), "")
    except OSError as error:
        raise SourceError(what, why=str(error), remedy=remedy) from error
    except SourceError as error:
        what = f"{what}: {error.what}"
        raise SourceError(what, why=error.why, remedy=error.remedy or remedy) from error


def copy(
    rootfs: Rootfs,
    options: Sequence[str],
    sources: Sequence[str],
    destination: str,
    *,
    as_root: bool,
) -> None:
    """Copy files of the host into the image, as cp(1) with these options.

    A name that is there is removed before it is written, and the host is read-only for cp where
    mounts are allowed: no link of the image leads a copy out of it. What an ordinary user copies
    belongs to root in the image. Raises ImageError with cp's words.
    """
    for source in sources:
        if not os.path.lexists(source):
            raise ImageError(f"there is no {source} to copy", remedy="Check the spelling.")
    where = str(rootfs.path(destination))
    if destination.endswith("/"):
        status = rootfs.status(destination)
        makes_it = len(sources) == 1 and Path(sources[0]).is_dir()  # cp -r DIRECTORY NEW/
        if not makes_it and not (status and stat.S_ISDIR(status.st_mode)):
            raise ImageError(
                f"the image has no directory {destination}",
                remedy="Name one that it has, or a file: without the slash at the end.",
            )
        where += "/"
    own = ["--remove-destination"]
    if not as_root:
        own.append("--no-preserve=ownership")
    argv = ["cp", *options, *own, "--", *sources, where]
    before = recorder.inodes(rootfs.root, rootfs.owners)
    done = chroot.host(
        rootfs.root,
        argv,
        env=command.environment(),
        directory=Path.cwd(),
        plain=True,
        on_line=rootfs.report.line,
    )
    if done.status:
        why = "\n".join(done.tail).replace(str(rootfs.root), "")
        raise ImageError(f"cannot copy to {destination}", why=why, remedy="The image is unchanged.")
    # What cp has written anew belongs to whom cp gave it, and is no device.
    after = recorder.inodes(rootfs.root, before)
    for path in [path for path, inode in before.items() if after.get(path) != inode]:
        del rootfs.owners[path]


def check_options(options: Sequence[str]) -> None:
    """Refuse options of cp that make no sense here, or could lead out of the image.

    Raises UsageError.
    """
    for word in options:
        name = word[2:].partition("=")[0]
        is_harmless = name in _WORDS if word.startswith("--") else _LETTERS.issuperset(word[1:])
        if not is_harmless:
            raise UsageError(
                f"copy does not take cp's option {word}",
                remedy="It takes -a -d -f -H -L -P -p -r -n -u -v -x -T and their long names.",
            )
