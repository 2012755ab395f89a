"""What kind of image a path names, told from the first bytes as docs/image-format.md says.

Knows nothing of mounts. Everything read here is hostile until checked.
"""

import errno
import fcntl
import os
import stat

from singrun.errors import RunError

EXT3, SANDBOX = "ext3", "sandbox"
HEADER_LINE = b"#!/usr/bin/env run-singularity"
HEADER_SIZE = 31
_SUPERBLOCK, _SUPERBLOCK_SIZE = 1024, 1024  # <linux/ext3_fs.h>; bytes
_INCOMPAT_RECOVER = 0x4
_MAX_LOG_BLOCK_SIZE = 6  # 64 KiB, the largest that ext2fs knows
_REMEDY = (
    "Give an image built by singbuild, a bare ext3 image, a Singularity 2.x image or a directory."
)


class Image:
    """An opened image: ``kind`` EXT3 or SANDBOX, the file system ``offset`` bytes into the file.

    dirty: the journal holds changes that were never written to their place.
    """

    def __init__(
        self, path: str, fd: int, kind: str, offset: int = 0, *, dirty: bool = False
    ) -> None:
        self.path, self.fd, self.kind, self.offset, self.dirty = path, fd, kind, offset, dirty


def open_image(path: str) -> Image:
    """Return the image at ``path``, checked. Raises RunError when it cannot be one."""
    fd = _opened(path)
    whole = os.path.abspath(path)
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        return Image(whole, fd, SANDBOX)
    if not stat.S_ISREG(mode):
        raise RunError(f"{path} is not an image", why="It is no regular file.", remedy=_REMEDY)
    offset, superblock = _superblock(fd, path)
    _check_length(superblock, os.fstat(fd).st_size - offset, path)
    dirty = bool(int.from_bytes(superblock[96:100], "little") & _INCOMPAT_RECOVER)
    return Image(whole, fd, EXT3, offset, dirty=dirty)


def _opened(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise RunError(
            f"Cannot open the image {path}", why=f"{error.strerror}.", remedy=_remedy(error.errno)
        ) from None
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)  # O_NONBLOCK kept a FIFO from holding us
    return fd


def _remedy(number: int | None) -> str:
    if number == errno.ENOENT:
        return "Check the spelling; an image is named by its path."
    if number == errno.EACCES:
        return "Ask its owner for read permission, on the file and on the directories above it."
    return _REMEDY


def _superblock(fd: int, path: str) -> tuple[int, bytes]:
    """Return the file system's offset and its superblock."""
    head = os.pread(fd, HEADER_SIZE + _SUPERBLOCK + _SUPERBLOCK_SIZE, 0)
    if not head:
        raise RunError(f"{path} is not an image", why="The file is empty.", remedy=_REMEDY)
    offset = HEADER_SIZE if head.startswith(HEADER_LINE) else 0
    superblock = head[offset + _SUPERBLOCK :][:_SUPERBLOCK_SIZE]
    if superblock[56:58] != b"\x53\xef":
        why = f"No ext3 superblock at offset {offset + _SUPERBLOCK}."
        raise RunError(f"{path} is not an image", why=why, remedy=_REMEDY)
    return offset, superblock


def _check_length(superblock: bytes, have: int, path: str) -> None:
    """Refuse a superblock that speaks of more bytes than the ``have`` that there are."""
    shift = int.from_bytes(superblock[24:28], "little")
    need = int.from_bytes(superblock[4:8], "little") << (10 + min(shift, _MAX_LOG_BLOCK_SIZE))
    if shift > _MAX_LOG_BLOCK_SIZE or not need:
        raise RunError(f"{path} is not an image", why="Its superblock is damaged.", remedy=_REMEDY)
    if len(superblock) < _SUPERBLOCK_SIZE or need > have:
        why = f"The file system holds {need} bytes, the file only {max(have, 0)}."
        raise RunError(f"The image {path} is truncated", why=why, remedy="Copy or build it again.")
