"""Who has signed an image's file, every byte of it, remembered as long as nothing has changed.

What is remembered lies in a directory that only the user may enter, and is bound to the file's
device, inode, size and times, and to those of all that the verdict depends on.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LASTS = 3600  # seconds that a verdict holds: keys expire
_LARGEST = 1 << 14  # bytes of what is remembered of one file
_MOST = 1000  # files of which something is remembered


def names_of(fd: int, path: str, allowed: "list[str]", revoked: "list[str]") -> "list[str]":
    """Return the principals of those who have signed an open image, of these lists of signers.

    path: of the file, for its detached signatures. Raises RunError where nothing can be said.
    """
    beside = f"{path}.sig"
    status = os.fstat(fd)
    file, rest = _state(status), _states([beside, *allowed, *revoked])
    name = f"{status.st_dev:x}-{status.st_ino:x}"
    record = _remembered(name)
    if record[:1] == [file] and record[2:3] == [rest] and _is_fresh(record[3]):
        return record[4:]
    from singrun.signatures import judgement  # who asks again does not pay for it

    digest = record[1] if record[:1] == [file] else judgement.digest(fd)
    names = judgement.names(fd, beside, digest, allowed, revoked)
    if _state(os.fstat(fd)) == file:  # else it is being written
        import time

        _remember(name, [file, digest, rest, str(int(time.time())), *names])
    return names


def _is_fresh(when: str) -> bool:
    import time  # built in

    return 0 <= time.time() - int(when) < _LASTS


def _state(status: os.stat_result) -> str:
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{status.st_dev} {status.st_ino} {status.st_size} {times}"


def _states(paths: "list[str]") -> str:
    rows = []
    for path in paths:
        try:
            rows.append(_state(os.stat(path)))
        # That there is none is a state, too: a list of keys that comes later is to be looked at.
        except OSError:
            rows.append("-")
    return ", ".join(rows)


# What is remembered of one file: lines in a file of its own. Without a directory, nothing.


def _remembered(name: str) -> "list[str]":
    """Return the lines, none if there are none."""

    def read(directory: int) -> "list[str]":
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            data = os.read(fd, _LARGEST)
        finally:
            os.close(fd)
        lines = data.decode("utf-8", "surrogateescape").split("\n")
        # What a killed process wrote in half has no end.
        return lines[:-1] if len(lines) > 4 and lines[-1] == "end" else []

    return _in_private_directory(read) or []


def _remember(name: str, lines: "list[str]") -> None:
    """Remember lines instead."""
    data = "\n".join([*lines, "end"]).encode("utf-8", "surrogateescape")
    if len(data) > _LARGEST:
        return

    def write(directory: int) -> "list[str]":
        new = f".{name}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        fd = os.open(new, flags, 0o600, dir_fd=directory)
        try:
            os.write(fd, data)
            # No fsync(2): what a crash of the host loses is found out once more.
            os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            os.unlink(new, dir_fd=directory)
        finally:
            os.close(fd)
        _prune(directory)
        return []

    _in_private_directory(write)


def _prune(directory: int) -> None:
    """Remove what was written longest ago, beyond what is remembered at most."""
    names = os.listdir(directory)
    if len(names) > _MOST:
        names.sort(key=lambda name: os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime)
        for name in names[:-_MOST]:
            os.unlink(name, dir_fd=directory)


def _in_private_directory(work: "Callable[[int], list[str]]") -> "list[str] | None":
    """Do something in the user's own directory; None if that is not possible.

    Root has root's directory also while files are accessed with the rights of who called sudo.
    """
    uid = os.geteuid()
    if uid == 0 and "SUDO_UID" in os.environ:
        from singrun import syscalls

        before = syscalls.setfsuid(uid)
        try:
            return _in_directory_of(uid, work)
        finally:
            syscalls.setfsuid(before)
    return _in_directory_of(uid, work)


def _in_directory_of(uid: int, work: "Callable[[int], list[str]]") -> "list[str] | None":
    path = f"/var/tmp/singrun-signers-{uid}"  # noqa: S108  checked
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            directory = os.open(path, flags)
        except FileNotFoundError:
            os.mkdir(path, 0o700)
            directory = os.open(path, flags)
        try:
            status = os.fstat(directory)
            if status.st_uid != uid or status.st_mode & 0o077:
                return None
            return work(directory)
        finally:
            os.close(directory)
    except (OSError, ValueError):
        return None
