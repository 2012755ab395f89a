"""Changes a finished image: its tree is unpacked, worked on, and sealed in its place.

    image ─▶ held ─▶ tree in a scratch ─▶ work on it ─▶ sealed part file ─▶ renamed into place

No byte of the old file is touched, so a change that fails or is killed leaves the old
image, and nothing else. It needs no privilege: what the host may not give to the tree
(owners, devices) is recorded and given to the image. A Singularity 2.x image keeps
its header.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from singbuild import host, variables, workspace
from singbuild.console import faults
from singbuild.console.display import Console
from singbuild.console.singularity_2x import Console2x
from singbuild.errors import EXIT_BUG, ImageError, SingbuildError
from singbuild.ext3.boot import unsigned
from singbuild.ext3.node import Owner
from singbuild.ext3.reader.disk import HEADER_2X_SIZE
from singbuild.ext3.reader.image import Image
from singbuild.ext3.writer import seal
from singbuild.ext3.writer.seal import Shape
from singbuild.formats.loading import DEFAULT
from singbuild.plan import plan, preflight
from singbuild.plan.options import Options
from singbuild.privilege import capabilities, modes, namespace
from singbuild.privilege.modes import Mode
from singbuild.recipe.grammar import Recipe
from singbuild.tree import metadata
from singbuild.tree.rootfs import Rootfs
from singbuild.tree.scratch import flushing_in_background, scratch
from singrun.errors import RunError
from singrun.images import locks

Work = Callable[[Rootfs], None]


def nothing(_rootfs: Rootfs) -> None:
    """Change nothing in the tree, where only the size changes."""


@dataclass(frozen=True)
class _Job:
    """One change of an image.

    epoch: no file is later; privileged: whether this process is root and may mount.
    """

    image: Image
    scratch: Path
    part: Path
    shape: Shape
    free: int
    epoch: int
    privileged: bool


def create(path: Path, size: int, *, force: bool, directories: Sequence[str] = ()) -> None:
    """Make an empty image of ``size`` bytes at ``path``. Raises ImageError, HostError.

    directories: relative paths of what it shall hold all the same, as the caller's.
    """
    target = workspace.resolved(path)
    preflight.check_target(target, force=force)
    epoch = _now()
    with (
        contextlib.ExitStack() as stack,
        workspace.scratch_directory() as scratch,
        workspace.part_file(target) as part,
    ):
        if target.exists():
            stack.enter_context(held(target))
        (scratch / "empty").mkdir(mode=0o755)
        for each in directories:
            (scratch / "empty" / each).mkdir(mode=0o755, parents=True)
        # On the host the directory is the caller's; in the image, root's, whatever is inside.
        owners = {b"": Owner(0, 0)}
        seal.seal(scratch / "empty", part.file, epoch=epoch, shape=Shape(size), owners=owners)
        part.chmod(0o777 & ~host.umask())
        workspace.rename_into_place(part, target, replace=force)


def bootstrap(path: Path, recipe: Recipe, *, test: bool = True, quiet: bool = False) -> int:
    """Fill an existing image in place by a recipe; return the exit status.

    The recipe's backend works on top of what the image holds, if it holds anything.
    """
    with _held_image(path) as (target, opened):
        shape = shape_of(opened)
        empty = len(list(opened.listed(opened.root()))) == 0
        console = Console2x(sys.stdout, recipe.bootstrap, quiet=quiet)
        onto = None if empty or recipe.bootstrap == "localimage" else opened
        options = Options(
            force=True,
            test=test,
            use_cache=empty,
            shape=shape,
            base_image=onto,
            replaced_image=opened.status,
            format=DEFAULT,
            command="bootstrap",
        )
        from singbuild import build  # of all changes, this alone needs it: 60 ms

        return build.build(plan.make(recipe, console), target, options, console)


def change(
    path: Path,
    work: Work,
    console: Console,
    *,
    size: Callable[[Image], int] | None = None,
    free: int = 0,
) -> int:
    """Do ``work`` on the tree of the image at ``path``; return the exit status.

    size: says how many bytes the file system shall have, 0 for as few as it can with
    ``free`` bytes left; by default it keeps its size. Errors are shown on the console.
    """
    try:
        epoch = _now()
        choice = modes.choose()
        preflight.check_programs(preflight.engine_programs(choice))
        with (
            _held_image(path) as (target, opened),
            workspace.scratch_directory() as scratch,
            workspace.part_file(target) as part,
        ):
            shape = shape_of(opened)
            new_size = size(opened) if size else shape.size
            shape = Shape(new_size, shape.header)
            is_root = choice.mode is Mode.ROOT
            job = _Job(opened, scratch, part.file, shape, free, epoch, privileged=is_root)
            status = namespace.run(
                lambda: _report_errors(console, lambda: _changed(job, work, console)),
                drop=[capabilities.SYS_ADMIN] if choice.mode is Mode.CHROOT else [],
            )
            # The child has shown all other failures itself.
            if status == 128 + signal.SIGKILL:
                console.error(faults.KILLED, None)
                status = faults.KILLED.status
            if status == 0:
                part.copy_owner_and_mode_from(opened.status)
                workspace.rename_into_place(part, target)
                if unsigned(opened.boot) != opened.boot:
                    console.warn(
                        f"{path} was signed, and is another image now: its signatures are gone; "
                        f"sign it again: singbuild sign {path}"
                    )
            return status
    except (SingbuildError, OSError, MemoryError) as error:
        explained = faults.plain(error, (workspace.scratch_parent(), path.parent))
        console.error(explained, None)
        return explained.status


def _now() -> int:
    """Return SOURCE_DATE_EPOCH, else the time, in seconds since 1970. Raises UsageError."""
    epoch = variables.epoch()
    return int(time.time()) if epoch is None else epoch


def _report_errors(console: Console, work: Callable[[], None]) -> int:
    """Do the work; show what went wrong, and return the exit status."""
    with console:
        try:
            work()
        except (SingbuildError, OSError, MemoryError) as error:
            explained = faults.plain(error, (workspace.scratch_parent(),))
            console.error(explained, None)
            return explained.status
        except Exception as error:
            traceback.print_exc()
            console.error(faults.bug(error), None)
            return EXIT_BUG
    return 0


def _changed(job: _Job, work: Work, console: Console) -> None:
    with scratch(job.scratch, privileged=job.privileged) as root:
        rootfs = Rootfs(root, console, epoch=job.epoch)
        rootfs.unpack_tree(job.image)
        work(rootfs)
        if rootfs.exists(metadata.HOME):  # else the 2.x names are the image's own
            metadata.adopt(rootfs)
        with flushing_in_background(root):
            seal.seal(
                root,
                job.part,
                epoch=job.epoch,
                free=job.free,
                shape=job.shape,
                owners=rootfs.owners,
                times=rootfs.baseline.times(root),
            )


@contextlib.contextmanager
def held(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Hold an image for writing for the time of a with-block: nobody else reads or writes it.

    Gives the file that the name stands for, links resolved, and its status. Raises ImageError when
    it is not the caller's to write, or is in use, naming who has it.
    """
    target = workspace.resolved(path)
    while True:
        fd = _opened(target)
        try:
            locks.take(fd, str(path), exclusive=True)
            if _is_at(target, fd):
                yield target, os.fstat(fd)
                return
        except RunError as error:
            raise ImageError(error.what, why=error.why, remedy=error.remedy) from error
        finally:
            os.close(fd)


@contextlib.contextmanager
def _held_image(path: Path) -> Iterator[tuple[Path, Image]]:
    """Hold an image and open the very file that is held, whatever its name leads to by then.

    Raises ImageError.
    """
    with held(path) as (target, status), Image(target) as opened:
        if not os.path.samestat(opened.status, status):
            raise ImageError(
                f"{path} was replaced by another process",
                why="Its directory is open to others.",
                remedy="Work on a copy in a directory that only you may write.",
            )
        opened.check_clean()
        yield target, opened


def _is_at(target: Path, fd: int) -> bool:
    """Whether a name still leads to an open file: another process may have replaced it."""
    try:
        return os.path.samestat(os.fstat(fd), target.stat())
    except FileNotFoundError:
        return False


def _opened(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        remedy = "Ask its owner for the right to write it, or work on a copy."
        if error.errno == errno.ENOENT:
            remedy = f"Check the spelling, or make it first: singbuild create {path}"
        raise ImageError(
            f"cannot open the image {path} for writing", why=f"{error.strerror}.", remedy=remedy
        ) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ImageError(f"{path} is no image file", remedy="Name a file that is an image.")
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    return fd


def shape_of(opened: Image) -> Shape:
    """Return what an image has to keep."""
    exact = opened.superblock.free_blocks == 0
    header = opened.boot[:HEADER_2X_SIZE] if opened.offset else b""
    return Shape(0 if exact else opened.superblock.size, header)
