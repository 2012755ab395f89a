"""Which processes have locked an image file, for the error that says so. proc(5), /proc/locks."""

import os
import pwd

from singrun import syscalls
from singrun.errors import RunError


def busy(fd: int, path: str, *, exclusive: bool) -> RunError:
    """Return an error that names the processes which have locked the file ``fd``."""
    wish = "writing" if exclusive else "reading"
    holders = [_described(pid) for pid in _holders(fd)]
    why = "In use " + ("; ".join(holders[:3]) or "by a process on another host") + "."
    if len(holders) > len(holders[:3]):
        why = f"{why[:-1]}; and {len(holders) - 3} more."
    remedy = "Wait until it has ended, or work on a copy of the image."
    return RunError(f"{path} is busy: cannot open it for {wish}", why=why, remedy=remedy)


def _holders(fd: int) -> list[int]:
    """Return the processes of this host that have locked the file ``fd``. proc(5), /proc/locks."""
    place = f"{_device(fd)}:{os.fstat(fd).st_ino}"
    with open("/proc/locks") as file:
        rows = [line.split() for line in file]
    matching = (row for row in rows if row[1] == "FLOCK" and row[5] == place)
    return [int(row[4]) for row in matching if int(row[4]) > 0]


def _device(fd: int) -> str:
    """Return the device of the file's mount as /proc/locks has it. proc(5), mountinfo.

    Of btrfs and overlayfs st_dev is another one.
    """
    device, mount = os.fstat(fd).st_dev, b"%d" % syscalls.mount_id(fd)
    major, minor = os.major(device), os.minor(device)
    with open("/proc/self/mountinfo", "rb") as file:
        for number, _, numbers, _ in (line.split(maxsplit=3) for line in file):
            if number == mount:
                major, minor = map(int, numbers.split(b":"))
    return f"{major:02x}:{minor:02x}"


def _described(pid: int) -> str:
    """Describe process ``pid``: its host, its user, and its start time."""
    place = f"on {os.uname().nodename} by process {pid}"
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
        return f"{place} of {_name(uid)} since {_started(pid)}"
    except (OSError, ValueError):
        return f"{place}, which has ended; what it mounted is just being taken down"


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _started(pid: int) -> str:
    """Return when ``pid`` began, in local time. proc(5): starttime counts ticks since boot."""
    import time

    with open(f"/proc/{pid}/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/stat") as file:
        boot = next(int(line.split()[1]) for line in file if line.startswith("btime"))
    began = boot + ticks / os.sysconf("SC_CLK_TCK")
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began))
