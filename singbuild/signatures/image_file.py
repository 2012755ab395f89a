"""An image's file and its signatures: what they sign of it, and where they stand.

An ext3 file of ours has them in its boot block, as far as there is room; every other file, and
what finds no room, in a text file beside it. docs/signatures.md, "The bytes".
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from singbuild import file_tree, lease, workspace
from singbuild.errors import ImageError
from singbuild.ext3.boot import BOOT_BLOCK
from singrun.errors import RunError
from singrun.images import locks
from singrun.signatures import sshsig, statement
from singrun.signatures.statement import Signed

BESIDE = ".sig"  # the ending of the file beside an image
_PIECE = 1 << 20
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY, errno.EISDIR)


@dataclass(frozen=True)
class Placed:
    """A signature and where it stands: "boot block", or the name of a file."""

    signed: Signed
    place: str


@dataclass(frozen=True)
class ImageFile:
    """An open file, whatever has its name by now.

    beside: the path of its detached signatures; writable: whether others may stand in the file.
    """

    path: Path
    fd: int
    beside: Path
    writable: bool = False

    @property
    def open_path(self) -> Path:
        """A path of the open file, for who opens files by path."""
        return Path(f"/proc/self/fd/{self.fd}")

    @property
    def boot(self) -> bytes:
        """The first kilobyte, as it is now."""
        return os.pread(self.fd, BOOT_BLOCK, 0)

    @property
    def start(self) -> int:
        """The offset of the first byte that is signed: behind a boot block of ours, else 0.

        A boot block has signatures itself; all else in it is either fixed or signed.
        """
        return BOOT_BLOCK if statement.recorded(self.boot)[0] else 0

    def digest(self) -> str:
        """Return the digest of all bytes that are signed, "sha256:…"."""
        total, at = hashlib.sha256(), self.start
        while piece := os.pread(self.fd, _PIECE, at):
            total.update(piece)
            at += len(piece)
        return f"sha256:{total.hexdigest()}"

    def signatures(self) -> list[Placed]:
        """Return all signatures. Raises ImageError for what stands in their place."""
        try:
            inside = statement.in_boot_block(self.boot)
        except ValueError as error:
            raise _no_signature(self.path, f"boot block: {error}") from error
        beside = [Placed(each, self.beside.name) for each in self._beside()]
        return [*(Placed(each, "boot block") for each in inside), *beside]

    def _beside(self) -> list[Signed]:
        data = self._text_beside()
        try:
            if len(data) > statement.LONGEST:
                raise ValueError(f"it is longer than {statement.LONGEST} bytes")
            return statement.in_text(data.decode("ascii")) if data else []
        except ValueError as error:
            raise _no_signature(self.beside, str(error)) from error

    def _text_beside(self) -> bytes:
        """Return what the file beside holds, a byte more than it may at most; b"" for no file."""
        if not os.path.lexists(self.beside):
            return b""
        fd = file_tree.opened(self.beside)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise _no_signature(self.beside, "it is no regular file")
            return os.pread(fd, statement.LONGEST + 1, 0)
        finally:
            os.close(fd)

    def count(self) -> int:
        """Return how many signatures may be removed, sound or not."""
        inside = self.boot.count(b"\n# signature ") if self.start and self.writable else 0
        return inside + self._text_beside().count(sshsig.BEGIN.encode())

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Lock out other signers for a with-block: lockf(3); launches, by flock(2), go on.

        What is not written cannot be locked so: then the name of the file beside is leased.
        """
        if not self.writable:
            with contextlib.ExitStack() as stack:
                # Where no lease can be had, no signature can either, and that is told then.
                with contextlib.suppress(OSError):
                    stack.enter_context(lease.leased(self.beside))
                yield
            return
        fcntl.lockf(self.fd, fcntl.LOCK_EX, BOOT_BLOCK)
        try:
            yield
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, BOOT_BLOCK)

    def store(self, signed: Sequence[Signed]) -> None:
        """Replace all signatures by these: those that fit go into the boot block."""
        inside, beside = self._parted(signed)
        bare = statement.unsigned(self.boot)
        if self.writable and self.start:
            records = bare.rstrip(b"\0")
            boot = (records + statement.boot_lines(inside)).ljust(BOOT_BLOCK, b"\0")
            os.pwrite(self.fd, boot, 0)
            # Before the file beside goes, which may have held one of these until now.
            os.fsync(self.fd)
        if not beside:
            self.beside.unlink(missing_ok=True)
            return
        with workspace.part_file(self.beside) as part:
            with part.opened() as out:
                out.write(statement.as_text(beside).encode())
            part.chmod(0o644)
            workspace.rename_into_place(part, self.beside)

    def _parted(self, signed: Sequence[Signed]) -> tuple[list[Signed], list[Signed]]:
        """Return those for the boot block and those for the file beside."""
        if not self.start:
            return [], [*signed]
        if not self.writable:
            return statement.in_boot_block(self.boot), [*signed]
        room = BOOT_BLOCK - len(statement.unsigned(self.boot).rstrip(b"\0"))
        inside, beside = list[Signed](), list[Signed]()
        for each in signed:
            fits = len(statement.boot_lines([*inside, each])) <= room
            (inside if fits else beside).append(each)
        return inside, beside


@contextlib.contextmanager
def opened(path: Path, *, beside: Path | None = None, write: bool = False) -> Iterator[ImageFile]:
    """Open an image's file; to write, if it may be written. Raises ImageError.

    beside: the file of its detached signatures, if that has a name of its own: then nothing is
    written into the image.
    """
    fd, writable = _opened(path, write=write)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ImageError(
                f"{path} is no image file",
                why="A signature is over the bytes of a file.",
                remedy="Make one: singbuild convert DIRECTORY IMAGE",
            )
        if write:
            try:
                # Shared, since launches go on reading it; whoever would change its content
                # is kept out.
                locks.take(fd, str(path), exclusive=False)
            except RunError as error:
                raise ImageError(error.what, why=error.why, remedy=error.remedy) from error
        own = path.with_name(path.name + BESIDE)
        yield ImageFile(path, fd, beside or own, writable and not beside)
    finally:
        os.close(fd)


def counts(path: Path) -> dict[str, int]:
    """Return how many signatures make each claim, unchecked; {} where they cannot be read."""
    if path.is_dir():
        return {}
    with contextlib.suppress(ImageError), opened(path) as file:
        return dict(Counter(each.signed.statement.claim for each in file.signatures()))
    return {}


def _opened(path: Path, *, write: bool) -> tuple[int, bool]:
    flags = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        if write:
            try:
                return os.open(path, os.O_RDWR | flags), True
            except OSError as error:
                if error.errno not in _READ_ONLY:
                    raise
        return os.open(path, os.O_RDONLY | flags), False
    except OSError as error:
        raise ImageError(
            f"cannot open the image {path}",
            why=f"{error.strerror}.",
            remedy="Check the spelling." if error.errno == errno.ENOENT else "",
        ) from error


def _no_signature(path: Path, reason: str) -> ImageError:
    return ImageError(
        f"the signatures of {path} cannot be read",
        why=reason,
        remedy="Remove them with singbuild sign --remove, or get the image anew.",
    )
