"""The one handle to the tree that is being built; backends and sections know nothing else of it.

Every path given to it is a path *inside* the image. Links are resolved inside
too, so an image whose ``/etc`` is a link to ``/`` never makes us touch the host.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from singbuild import command
from singbuild.contract import Reporter
from singbuild.errors import HostError, ImageError
from singbuild.ext3.node import Owner, shown
from singbuild.ext3.reader.image import Image
from singbuild.ext3.records import MAX_TIME
from singbuild.privilege import recorder
from singbuild.tar.extract import Unpacker
from singbuild.tar.write import archive
from singbuild.tree import chroot
from singbuild.tree.baseline import Baseline
from singbuild.tree.volatile import is_in_place

DEVICES = {  # the kernel's Documentation/admin-guide/devices.txt
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "console": (5, 1),
    "ptmx": (5, 2),
}
MAX_LINKS = 40  # as the kernel: path_resolution(7)


class Rootfs:
    """A root file system under construction.

    root: its directory on the host, for host programs that fill a directory;
    report: where output goes; owners: of entries to which the host could not give
    them, by path, for the seal; journal: where programs' wishes for owners are recorded;
    epoch: later times become it, but for those of a source, which ``baseline`` knows.
    """

    def __init__(
        self,
        root: Path,
        report: Reporter,
        journal: Path | None = None,
        epoch: int = MAX_TIME,
    ) -> None:
        self._journal = journal if journal and journal.exists() else None
        self.baseline = Baseline(epoch)
        self.root = root
        self.report = report
        self.owners: dict[bytes, Owner] = {}

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

    @contextlib.contextmanager
    def devices(self) -> Iterator[None]:
        """Make /dev/null and its kin in the image, in working order for the time of a with-block.

        Where this process may make none, they are recorded for the image, and lent by the host.
        """
        self.mkdir("/dev")
        with contextlib.ExitStack() as stack:
            for name, number in DEVICES.items():
                where, mode = self.root / "dev" / name, stat.S_IFCHR | 0o666
                device = os.makedev(*number)
                try:
                    os.mknod(where, mode, device)
                except PermissionError:
                    where.touch()
                    self.owners[b"dev/" + name.encode()] = Owner(0, 0, mode, device)
                where.chmod(0o666)
                if name in chroot.DEVICES and not where.is_char_device():
                    stack.enter_context(chroot.bound(name, where))
            yield

    @contextlib.contextmanager
    def furnished(self) -> Iterator[None]:
        """Give the image /proc, /sys and a /dev of its own for the time of a with-block.

        For host programs that execute others in the image. Where nothing may be mounted, /proc
        and /sys are empty; whatever the image has in /dev is out of sight.
        """
        with chroot.furnished(self.root):
            yield

    def wished(self, *, tell: bool = False) -> dict[bytes, Owner]:
        """Return all owners and devices that the host could not give, by path, as of now.

        tell: warn of entries of which it is not known what they should have got.
        """
        if not self._journal:
            return dict(self.owners)
        wished = recorder.owners(self.root, self._journal) | self.owners
        if tell and (lacking := recorder.without_group(self.root, wished)):
            more = f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
            self.report.warn(
                f"{shown(lacking[0])}{more} may lack the group of the set-group-id directory: "
                "give it with chown in %post"
            )
        return wished

    def unpack(self, archives: Iterable[Iterable[bytes]], *, whiteouts: bool = False) -> None:
        """Unpack tar archives over what is there, one after the other; nothing leaves the image.

        archives: each uncompressed, in pieces of any size; whiteouts: they are an image's
        layers. What they bring is not normalised. Raises SourceError naming the entry, and
        OSError when the disk is full.
        """
        with Unpacker(
            self.root,
            self.report,
            whiteouts=whiteouts,
            owners=self.owners,
            wanted=self.baseline.wants,
        ) as unpacker:
            for archive in archives:
                unpacker.apply(archive)
        self.baseline.record(self.root, unpacker.brought)

    def unpack_image(self, path: Path) -> None:
        """Unpack the tree of an ext3 image over what is there: owners, attributes and all.

        Raises ImageError for what is no image or a damaged one.
        """
        with Image(path) as image:
            self.unpack([archive(image)])

    def restore(self, path: Path, source: Mapping[str, bool]) -> None:
        """Unpack the tree of a build that was interrupted. source: what ``Baseline.saved`` gave."""
        with Image(path) as image, Unpacker(self.root, self.report, owners=self.owners) as unpacker:
            unpacker.apply(archive(image))
        self.baseline.restore(self.root, source)

    def adopt(self, target: Path, names: Iterable[str]) -> None:
        """Let files that were copied from the host be the source's, which is not normalised.

        target: where they lie; names: their paths below it. Their time is the epoch from now on.
        Bytecode is left to normalising, since the seal changes the time of its source.
        """
        epoch, found = self.baseline.epoch, []
        for name in names:
            path = os.fsencode(target.relative_to(self.root) / name)
            if is_in_place(path):
                where = os.fsencode(self.root) + b"/" + path
                os.utime(where, (epoch, epoch), follow_symlinks=False)
                found.append(path)
        self.baseline.record(self.root, found)

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
