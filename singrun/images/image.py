"""What kind of image a path names, told from the first bytes as docs/image-format.md says.

Knows nothing of mounts. Everything read here is hostile until checked.
"""

import errno
import fcntl
import os
import stat

from singrun.errors import RunError, nearest
from singrun.images import locks

POLICY = "/etc/singrun.policy"  # the site's; policy.py
EXT3, SQUASHFS, SANDBOX = "ext3", "squashfs", "sandbox"
HEADER_LINE = b"#!/usr/bin/env run-singularity"
HEADER_SIZE = 31
_SUPERBLOCK, _SUPERBLOCK_SIZE = 1024, 1024  # <linux/ext3_fs.h>; bytes
_INCOMPAT_RECOVER = 0x4
_MAX_LOG_BLOCK_SIZE = 6  # 64 KiB, the largest that ext2fs knows
_HEAD = _SUPERBLOCK + _SUPERBLOCK_SIZE  # bytes of a file system that are looked at
_SIF_MAGIC, _SIF_MAGIC_AT = b"SIF_MAGIC\0", 32  # sif.py
_REMEDY = (
    "Give an image built by singbuild, a SIF, a Singularity 2.x image, an ext3 or squashfs file"
    " or a directory."
)


class Image:
    """An opened image: ``kind`` EXT3, SQUASHFS or SANDBOX, its file system ``offset`` bytes in.

    writable: opened for writing. dirty: the journal holds changes that were never written to their
    place. full: it has no free block. is_data: no root file system, but one with files of the user
    who mounts it. stamp: words that tell this file, as it is now, from every other and from itself
    before; "" for a directory.
    """

    @property
    def remedy(self) -> str:
        """What to do when its file system turns out to be damaged."""
        if self.kind != EXT3:
            return "Copy or build it again."
        where = f"?offset={self.offset}" if self.offset else ""  # e2fsck(8)
        return f"Check it with: e2fsck -fn {self.path}{where}"

    def __init__(self, path: str, fd: int, kind: str, *, writable: bool) -> None:
        self.path, self.fd, self.kind, self.writable = path, fd, kind, writable
        self.offset, self.stamp = 0, ""
        self.dirty = self.full = self.is_data = False


def open_image(path: str, *, writable: bool = False) -> Image:
    """Return the image at ``path``, checked and locked; RunError, also where the policy refuses."""
    image = identify(path, writable=writable)
    try:
        check_policy(image.fd, image.path)
    except RunError:
        os.close(image.fd)
        raise
    return image


def identify(path: str, *, writable: bool = False) -> Image:
    """Return the image at ``path``, checked and locked. Raises RunError when it cannot be one.

    The policy is not asked: in a user namespace of ours everybody is root, and has no rule.
    """
    fd = _opened(path, writable=writable)
    try:
        return _identified(path, fd, writable=writable)
    except (RunError, OSError):
        os.close(fd)
        raise


def _identified(path: str, fd: int, *, writable: bool) -> Image:
    whole = os.path.abspath(path)
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        return Image(whole, fd, SANDBOX, writable=writable)
    if not stat.S_ISREG(status.st_mode):
        raise RunError(f"{path} is not an image", why="It is no regular file.", remedy=_REMEDY)
    # Before it is read: a writer that has it changes the superblock until it lets go.
    locks.take(fd, path, exclusive=writable)
    head = os.pread(fd, HEADER_SIZE + _HEAD, 0)
    if not head:
        raise RunError(f"{path} is not an image", why="The file is empty.", remedy=_REMEDY)
    offset, room, reason = _place(whole, fd, head, status.st_size)
    if offset:
        head = os.pread(fd, min(_HEAD, room), offset)
    if head.startswith(b"hsqs"):
        image, reason = _squashfs(whole, fd, head, room), reason or "It is a squashfs."
    else:
        image = _ext3(whole, fd, head, offset, room)
    image.offset, image.writable = offset, writable
    if writable and reason:
        remedy = "Lay a directory over it: --overlay DIR."
        raise RunError(f"{path} cannot be written", why=reason, remedy=remedy)
    if writable and image.full:
        remedy = f"Make room: singbuild expand --size 64M {path}, or build it with --free 64M."
        raise RunError(f"The image {path} is full", why="It was not touched.", remedy=remedy)
    return image


def check_policy(fd: int, path: str) -> None:
    """Refuse an open image that the site does not let run, or warn of it. RunError."""
    if os.path.lexists(POLICY):
        from singrun.images import policy  # who has none does not pay for it

        policy.check(POLICY, fd, path)


def _place(path: str, fd: int, head: bytes, size: int) -> "tuple[int, int, str]":
    """Return where in a file the file system lies: offset, bytes; why nobody may write there."""
    if head[_SIF_MAGIC_AT:].startswith(_SIF_MAGIC):
        from singrun.images import sif  # who starts no SIF does not pay for it

        return (*sif.root_partition(path, fd, head, size), "It is a SIF, which nobody writes.")
    offset = HEADER_SIZE if head.startswith(HEADER_LINE) else 0
    return offset, size - offset, ""


def _squashfs(path: str, fd: int, head: bytes, room: int) -> Image:
    _check_length(int.from_bytes(head[40:48], "little"), room, path)
    image = Image(path, fd, SQUASHFS, writable=False)
    image.stamp = stamp(fd, head[8:12] + head[40:48] + head[64:72])  # time, length, inode table
    return image


def _ext3(path: str, fd: int, head: bytes, offset: int, have: int) -> Image:
    image = Image(path, fd, EXT3, writable=False)
    superblock = head[_SUPERBLOCK:][:_SUPERBLOCK_SIZE]
    if superblock[56:58] != b"\x53\xef":
        why = f"No ext3 superblock at offset {offset + _SUPERBLOCK}, and no squashfs."
        raise RunError(f"{path} is not an image", why=why, remedy=_REMEDY)
    need = ext3_length(superblock, path)
    _check_length(need if len(superblock) == _SUPERBLOCK_SIZE else max(need, have + 1), have, path)
    image.dirty = bool(int.from_bytes(superblock[96:100], "little") & _INCOMPAT_RECOVER)
    # s_free_blocks_count, which a journal that is still to be replayed may change
    image.full = not image.dirty and not int.from_bytes(superblock[12:16], "little")
    image.stamp = stamp(fd, superblock[104:120] + superblock[48:52])  # s_uuid, s_wtime
    return image


def stamp(fd: int, words: bytes) -> str:
    """Name the file ``fd`` as it is now: where it lies, its size and times, and ``words`` of it."""
    status = os.fstat(fd)
    times = f"{status.st_mtime_ns:x}-{status.st_ctime_ns:x}"
    return f"{status.st_dev:x}-{status.st_ino:x}-{status.st_size:x}-{times}-{words.hex()}"


def is_clean(image: Image) -> bool:
    """Whether an ext3 was unmounted in order. <linux/ext3_fs.h>, s_state and s_feature_incompat."""
    superblock = os.pread(image.fd, _SUPERBLOCK_SIZE, image.offset + _SUPERBLOCK)
    return bool(superblock[58] & 1) and not superblock[96] & _INCOMPAT_RECOVER


def _opened(path: str, *, writable: bool) -> int:
    try:
        # Not O_RDWR at once: an image may be a directory, for which that is EISDIR, open(2).
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        if writable and not stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
        elif writable and not os.access(path, os.W_OK):
            os.close(fd)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unopened(path, error, writable=writable) from None
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)  # with O_NONBLOCK open(2) did not wait for a FIFO
    return fd


def _unopened(path: str, error: OSError, *, writable: bool) -> RunError:
    why = f"{error.strerror}."
    if path.startswith("http://"):
        why = "Nothing is fetched by plain http, where anybody may answer."
        remedy = f"Say https://{path[7:]}, or fetch the file with another program."
        return RunError(f"Cannot open the image {path}", why=why, remedy=remedy)
    if writable and error.errno != errno.ENOENT:
        remedy = "Ask its owner for write permission, or lay a directory over it: --overlay DIR."
        return RunError(f"Cannot open {path} for writing", why=why, remedy=remedy)
    return RunError(f"Cannot open the image {path}", why=why, remedy=_remedy(error.errno, path))


def _remedy(number: "int | None", path: str) -> str:
    if number == errno.ENOENT:
        near = _near(path)
        return (
            f"Did you mean {near}?"
            if near
            else f"Check the spelling; an image is named by its path{_or_source(path)}."
        )
    if number == errno.EACCES:
        return "Ask its owner for read permission, on the file and on the directories above it."
    return _REMEDY


def _or_source(path: str) -> str:
    """Name the source that a word may mean which is no path, such as alpine:3."""
    return "" if "/" in path or path.count(".") else f", or as docker://{path}"


def _near(path: str) -> str:
    """Return the file beside ``path`` that was probably meant, "" for none."""
    directory, slash, name = path.rpartition("/")
    try:
        files = os.listdir((directory or "/") if slash else ".")
    except OSError:
        return ""
    for suffix in (".img", ".sif", ".simg", ".sqsh"):
        if name + suffix in files:
            return path + suffix
    near = nearest(name, files)
    return directory + slash + near if near else ""


def ext3_length(superblock: bytes, path: str) -> int:
    """Return how many bytes the file system says that it has. RunError: it is damaged."""
    shift = int.from_bytes(superblock[24:28], "little")
    need = int.from_bytes(superblock[4:8], "little") << (10 + min(shift, _MAX_LOG_BLOCK_SIZE))
    if shift > _MAX_LOG_BLOCK_SIZE or not need:
        why, remedy = "Its superblock is damaged.", "Build it again, or try: e2fsck -f IMAGE"
        raise RunError(f"{path} is not an image", why=why, remedy=remedy)
    return need


def _check_length(need: int, have: int, path: str) -> None:
    if need > have:
        why = f"The file system holds {need} bytes, the file only {max(have, 0)}."
        raise RunError(f"The image {path} is truncated", why=why, remedy="Copy or build it again.")
