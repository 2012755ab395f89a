"""The one handle to the tree that is being built; backends and sections know nothing else of it.

Every path given to it is a path *inside* the image. Links are resolved inside
too, so an image whose ``/etc`` is a link to ``/`` never makes us touch the host.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from singbuild import chroot, command
from singbuild.contract import Reporter
from singbuild.errors import HostError, ImageError
from singbuild.untar import Unpacker

MAX_LINKS = 40  # as the kernel: path_resolution(7)


class Rootfs:
    """A root file system under construction.

    root: its directory on the host, for host programs that fill a directory;
    report: where output goes.
    """

    def __init__(self, root: Path, report: Reporter) -> None:
        self.root = root
        self.report = report

    def path(self, inside: str | os.PathLike[str], *, follow: bool = True) -> Path:
        """Return the host path of ``inside``, every link on the way resolved inside the image.

        follow: also resolve the last component. What does not exist is taken as it
        is written. Raises ImageError for a circle of links.
        """
        resolved: list[str] = []
        waiting = [part for part in reversed(PurePosixPath(inside).parts) if part != "/"]
        links = 0
        while waiting:
            part = waiting.pop()
            if part == "..":
                resolved = resolved[:-1]
                continue
            here = self.root.joinpath(*resolved, part)
            if here.is_symlink() and (waiting or follow):
                links += 1
                if links > MAX_LINKS:
                    raise ImageError(f"{inside}: too many levels of symbolic links in the image")
                target = PurePosixPath(here.readlink())
                if target.is_absolute():
                    resolved = []
                waiting += [step for step in reversed(target.parts) if step != "/"]
            else:
                resolved.append(part)
        return self.root.joinpath(*resolved)

    def exists(self, inside: str | os.PathLike[str]) -> bool:
        """Whether something is there (a link that leads nowhere is not)."""
        return self.path(inside).exists()

    def read(self, inside: str | os.PathLike[str]) -> bytes:
        """Return a file's content. Raises OSError."""
        return self.path(inside).read_bytes()

    def mkdir(self, inside: str | os.PathLike[str], mode: int = 0o755) -> None:
        """Make a directory of exactly this mode, and its parents with 0755; it may exist."""
        where = self.path(inside)
        for parent in [*reversed(where.relative_to(self.root).parents)]:
            _make_directory(self.root / parent, 0o755)
        _make_directory(where, mode)

    def write(self, inside: str | os.PathLike[str], data: str | bytes, mode: int = 0o644) -> None:
        """Write a file of exactly this mode, replacing whatever file or link is there."""
        where = self.path(inside, follow=False)
        self.mkdir("/" / where.parent.relative_to(self.root))
        remove(where)
        where.write_bytes(data.encode() if isinstance(data, str) else data)
        where.chmod(mode)

    def symlink(self, inside: str | os.PathLike[str], target: str) -> None:
        """Make a symbolic link, replacing whatever file or link is there."""
        where = self.path(inside, follow=False)
        self.mkdir("/" / where.parent.relative_to(self.root))
        remove(where)
        where.symlink_to(target)

    def unpack(self, archives: Iterable[Iterable[bytes]], *, whiteouts: bool = False) -> None:
        """Unpack tar archives over what is there, one after the other; nothing leaves the image.

        archives: each uncompressed, in pieces of any size; whiteouts: they are an image's
        layers. Raises SourceError naming the entry, and OSError when the disk is full.
        """
        with Unpacker(self.root, self.report, whiteouts=whiteouts) as unpacker:
            for archive in archives:
                unpacker.apply(archive)

    def host(
        self,
        argv: Sequence[command.Word],
        *,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> command.Completed:
        """Execute a host program, showing and logging its output.

        env: added to the plain environment; on_line: gets the lines instead of
        the user. Raises HostError when it fails.
        """
        return command.run(argv, env=command.environment(env), on_line=on_line or self.report.line)

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> command.Completed:
        """Execute a program of the image, in the image, as root.

        Raises HostError when it fails; ``path`` tells whether it is there.
        """
        done = chroot.call(self.root, argv, env=env, on_line=on_line or self.report.line)
        if done.status:
            raise HostError(
                f"{argv[0]} failed in the image with status {done.status}",
                why="\n".join(done.tail),
                remedy=f"The command was: {done.pasted}",
            )
        return done


def _make_directory(where: Path, mode: int) -> None:
    """Make one directory unless it is there; the umask has no say."""
    if not where.is_dir():
        where.mkdir()
        where.chmod(mode)


def remove(where: Path) -> None:
    """Remove a file or a link; a directory stays and is an error."""
    try:
        kind = where.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(kind):
        raise ImageError(f"{where.name}: is a directory where a file was to be written")
    where.unlink()
