"""Mounts as a table of small objects: describe() them, execute() them in order on a Root.

Knows nothing of images or users. Sources are paths of the host, targets are
resolved inside the root and nowhere else, so a symbolic link in a hostile image
leads only to places within that image.
"""

import os
import stat

from singrun import syscalls
from singrun.errors import RunError, say
from singrun.mounts.root import NoPlaceError, Root

_CLONE = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_RECURSIVE
_BY_DESCRIPTOR = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH


def image_attributes(*, writable: bool) -> int:
    """Return the MOUNT_ATTR_… of an image: never setuid programs, never devices."""
    # An image is its builder's: a device node or a setuid program in it must mean nothing here.
    attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
    return attributes if writable else attributes | syscalls.MOUNT_ATTR_RDONLY


def restrict(tree: int, attributes: int) -> None:
    """Set MOUNT_ATTR_… on ``tree`` and on all that is mounted below it. mount_setattr(2)."""
    flags = syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE
    syscalls.mount_setattr(tree, "", flags, attr_set=attributes)


def attach(tree: int, target: str) -> None:
    """Attach the detached ``tree`` to the directory ``target`` of this mount namespace."""
    flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH
    syscalls.move_mount(tree, "", syscalls.AT_FDCWD, target, flags)


def clone(source: str) -> int:
    """Return a detached copy of ``source`` and all that is mounted below it. open_tree(2)."""
    return syscalls.open_tree(syscalls.AT_FDCWD, source, _CLONE)


class Mount:
    """One row of the table: something to put on ``target``, an absolute path inside the root.

    why: the reason, for describe(). yields: it is left out where another row is mounted already,
    as one of /tmp and /var/tmp is in an image where they are one place. trace: whether the mount
    point, where it is missing, may be left behind in an overlay that is being written. adopted:
    it is a directory of the caller's, and mount points may be made and stay in it.
    """

    trace, yields, adopted = True, False, False

    def __init__(self, target: str, *, why: str = "", read_only: bool = False) -> None:
        self.target = os.path.normpath("/" + target.lstrip("/"))
        self.why, self.read_only = why, read_only
        self.tree = -1

    def what(self) -> str:
        """Return what is mounted, in a word or two."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return one line for --debug and --plan."""
        mode = " read-only" if self.read_only else ""
        return f"{self.what()} on {self.target}{mode}" + (f": {self.why}" if self.why else "")

    def create(self) -> int:
        """Return a descriptor of the detached tree; OSError as open_tree(2) or fsmount(2) say."""
        raise NotImplementedError

    def is_needless(self, place: int) -> bool:  # noqa: ARG002  of a bind it depends on the place
        """Whether the mount point already shows what would be mounted on it."""
        return False

    def pin(self) -> "Mount":
        """Open the source now, before namespaces change what the host's paths lead to."""
        if self.tree < 0:
            try:
                self.tree = self.create()
            except OSError as error:
                raise RunError(f"Cannot mount {self.what()}", why=f"{error.strerror}.") from None
        return self

    def execute(self, root: Root) -> bool:
        """Attach the tree to its target in ``root``, making the mount point if need be.

        Returns whether it was attached: not where it yields, nor where it is needless.
        NoPlaceError: an image that is written has no place for it.
        """
        if self.tree < 0:
            self.pin()
        directory = self._is_directory(self.tree)
        # Before it is attached: no moment is left in which a process inside could write.
        if self.read_only:
            restrict(self.tree, syscalls.MOUNT_ATTR_RDONLY)
        place = root.place(self.target, directory=directory, trace=self.trace, vacant=self.yields)
        if place < 0:
            return False
        if self.is_needless(place):
            os.close(place)
            return False
        if directory != self._is_directory(place):
            what = f"Cannot mount {self.what()} on {self.target}"
            raise RunError(what, why="One is a directory, the other is not.")
        # By descriptor, not by path: a link that changes meanwhile leads nowhere else.
        syscalls.move_mount(self.tree, "", place, "", _BY_DESCRIPTOR)
        root.occupy(self.tree)
        if self.adopted and directory:
            root.adopt(self.tree, self.target, lasting=True)
        os.close(place)
        return True

    def _is_directory(self, fd: int) -> bool:
        try:
            return stat.S_ISDIR(os.fstat(fd).st_mode)
        except OSError as error:  # even root may not ask that of another user's FUSE
            what = f"Cannot mount {self.what()} on {self.target}"
            raise RunError(what, why=f"{error.strerror}.") from None


class Bind(Mount):
    """A file or directory of the host, with all that is mounted below it."""

    def __init__(self, source: str, target: str, *, why: str = "", read_only: bool = False) -> None:
        super().__init__(target, why=why, read_only=read_only)
        self.source = source

    def what(self) -> str:
        """Return the source's path."""
        return f"bind {self.source}"

    def create(self) -> int:
        """Return a clone of the source."""
        return clone(self.source)


class ImageDirectory(Mount):
    """A directory of an image, ``source``; images/data.py mounts it, and gives the tree."""

    def __init__(self, source: str, directory: str, target: str, *, why: str) -> None:
        super().__init__(target, why=why)
        self.source, self.directory = source, directory

    def what(self) -> str:
        """Return the image's path, and what of it is shown."""
        return f"{self.directory} of {self.source}"

    def pin(self) -> Mount:
        """Do nothing: the image is open already."""
        return self


class BindUnlessSeen(Bind):
    """A bind that the user did not ask for: left out, with a warning, where it cannot be had.

    It is left out, too, where the target already shows the source, as for a home below /tmp once
    /tmp is shared. unless_there: leave it out as soon as the root has anything of the target's
    name, but for an empty directory.
    """

    unless_there, loud, refused = False, False, False

    def pin(self) -> Mount:
        """Open the source, or warn that it cannot be bound."""
        try:
            return self if self.refused else super().pin()
        except RunError as error:
            self.refused = True
            say(f"Not shared: {self.target}\n  {error.what}: {error.why}")
            return self

    def execute(self, root: Root) -> bool:
        """Attach it if it is needed, and can be; loud: say that the image has its own."""
        if self.pin().tree < 0:
            return False
        if self.unless_there and root.shows(self.target, self.tree):
            return False
        if self.unless_there and root.holds(self.target):
            if self.loud:
                say(f"Not shared: {self.target}, for the image has its own")
                say(f"  --bind {self.target} lays the host's over it.")
            return False
        try:
            return super().execute(root)
        except RunError as error:
            if not (self.unless_there and isinstance(error, NoPlaceError)):
                say(f"Not shared: {self.target}\n  {error.what}: {error.why}")
            return False

    def is_needless(self, place: int) -> bool:
        """Whether the place is the very directory or file that would be bound there."""
        return os.path.samestat(os.fstat(place), os.fstat(self.tree))


class Fresh(Mount):
    """A new, empty file system: tmpfs, proc … ``options`` are the file system's own.

    has_devices: the nodes in it are opened.
    """

    has_devices = False

    def __init__(self, fstype: str, target: str, *, why: str = "", **options: str) -> None:
        super().__init__(target, why=why)
        self.fstype, self.options = fstype, options

    def what(self) -> str:
        """Return the file system's name."""
        return f"new {self.fstype}"

    def create(self) -> int:
        """Return an unattached mount of it. fsopen(2), fsconfig(2), fsmount(2)."""
        # Not mount(2), which needs a target path, and would resolve it in the host's root.
        context = syscalls.fsopen(self.fstype)
        try:
            for key, value in self.options.items():
                syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, key, value)
            syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE, None, None)
            nodev = 0 if self.has_devices else syscalls.MOUNT_ATTR_NODEV
            return syscalls.fsmount(context, syscalls.MOUNT_ATTR_NOSUID | nodev)
        finally:
            os.close(context)

    def pin(self) -> "Mount":
        """Do nothing: what is new has no source to hold, and belongs to the final namespaces."""
        return self

    def execute(self, root: Root) -> bool:
        """Attach it; mount points may be made in it."""
        super().pin()
        attached = super().execute(root)
        if attached:
            root.adopt(self.tree, self.target)
        return attached


class Link(Mount):
    """A symbolic link to ``text`` in a directory that a Fresh of this table put there."""

    def __init__(self, text: str, target: str) -> None:
        super().__init__(target)
        self.text = text

    def what(self) -> str:
        """Return the link's text."""
        return f"link to {self.text}"

    def pin(self) -> "Mount":
        """Do nothing: a link has no source to hold."""
        return self

    def execute(self, root: Root) -> bool:
        """Make the link."""
        root.link(self.target, self.text)
        return True
