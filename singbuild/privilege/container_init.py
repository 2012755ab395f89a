"""Executes one program in a container; a script, which ``tree/chroot.py`` starts.

    singbuild ── exec ──▶ this script ── fork ──▶ process 1 ── fork ──▶ the program

The script is a new process image, with no variable but LD_LIBRARY_PATH and no descriptors but
the standard ones: it holds nothing of the builder's memory, variables and files. Process 1 of the
new PID namespace mounts, changes its root to the tree, unmounts the host's, forks the program and
reaps orphans. The program lacks the capabilities that reach beyond the tree.

It imports the standard library and the system calls alone: ``python -IS`` starts it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself, typing, json: 40 ms a program
import errno
import marshal
import os
import select
import stat
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(__file__) + "/../..")

from singrun import syscalls
from singrun.mounts.pivot import pivot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, NoReturn

# capabilities(7): what package managers and their scripts use, on files and ids of the tree. Not
# DAC_READ_SEARCH, which opens files by handle past any root directory; not SYS_ADMIN, which mounts.
ALLOWED = (
    syscalls.CAP_CHOWN,
    syscalls.CAP_DAC_OVERRIDE,
    syscalls.CAP_FOWNER,
    syscalls.CAP_FSETID,
    syscalls.CAP_KILL,
    syscalls.CAP_SETGID,
    syscalls.CAP_SETUID,
    syscalls.CAP_SETPCAP,
    syscalls.CAP_NET_BIND_SERVICE,
    syscalls.CAP_SYS_CHROOT,
    syscalls.CAP_MKNOD,
    syscalls.CAP_SETFCAP,
)

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
TREE = "/dev/tree"  # where programs of the host find the tree too, whatever its path is
# Files of proc(5) by which user id 0 changes the host's kernel.
READ_ONLY = ("acpi", "asound", "bus", "fs", "irq", "mtrr", "scsi", "sys", "sysrq-trigger")
EMPTY = ("kcore", "keys", "timer_list")  # they show the host's memory and keys

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_KEYBOARD = (_signal.SIGINT, _signal.SIGQUIT)
_QUIET = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
_CLONE = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC


def main() -> NoReturn:
    """Execute the job that the descriptor in argv[1] has, as marshal; end with its status.

    The job is a dictionary. root: the tree; argv, env: the program; mounts: whether this process
    may mount and make namespaces; files: in /dev, name to content; devices: paths of the host's
    below its /dev, which are seen there too; hostname: "" for the host's;
    host: None for a program of the tree, else {directory, writable, furnished, plain} of
    one of the host: its working directory, the paths that it may write besides the tree, whether
    the tree gets /proc and /sys, and whether the host's /dev, /proc and sockets stay;
    directory: the working directory of a program of the tree; user: (id, group, further groups),
    None for root; offline: whether it is kept from networks.
    """
    for number in _KEYBOARD:  # a terminal sends these to the program too
        _signal.signal(number, _signal.SIG_IGN)
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        job = marshal.load(file)  # noqa: S302 - the builder's own
    # Descriptors that the builder's caller left open are inherited, also through pty.spawn.
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    try:
        _start(job)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        os.write(2, os.fsencode(f"singbuild: cannot make a container: {what}\n"))
        os._exit(1)


def _start(job: dict[str, Any]) -> NoReturn:
    """Execute the program in a container, or by chroot alone. Raises OSError."""
    if not job["mounts"]:
        os.chroot(job["root"])
        os.chdir("/")
        # Only chroot(2) confines the program, and one that may call it again leaves: its NOTES.
        _drop_capabilities(also_drop=(syscalls.CAP_SYS_CHROOT,))
        _execute(job)
    outer = os.pidfd_open(os.getpid())
    uts = syscalls.CLONE_NEWUTS if job["hostname"] else 0
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC | uts)
    if uts:
        syscalls.sethostname(job["hostname"])
    if job["offline"]:
        _leave_networks(must=not job["host"])
        if not job["host"]:
            _start_loopback()
    init = os.fork()
    if init:
        os._exit(_wait_for(init))
    _become_init(job, outer)


def _leave_networks(*, must: bool) -> None:
    """Leave the host's networks. must: raise OSError where the kernel refuses."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
    except OSError:
        if must:
            raise
        return  # sites against faults in the kernel's networks: sysctl user.max_net_namespaces=0


def _start_loopback() -> None:
    """Start the one interface of a new network namespace: netdevice(7)."""
    import fcntl  # few programs need these three
    import socket
    import struct

    with socket.socket() as anything:
        fcntl.ioctl(anything, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))


def _become_init(job: dict[str, Any], outer: int) -> NoReturn:
    """Be process 1, which the kernel kills when its parent ends. outer: the parent's pidfd."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, _signal.SIGKILL)
    news = select.poll()  # select(2) knows no descriptor from 1024 on
    news.register(outer)
    if news.poll(0):  # the parent ended before prctl(2)
        os._exit(1)
    os.close(outer)
    # Nobody may trace process 1 or read /proc/1/mem: its memory maps the host's interpreter.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    _change_root(job)
    if not (job["host"] and job["host"]["plain"]):
        _scope_sockets()
    _drop_capabilities()
    program = os.fork()
    if program == 0:
        _execute(job)
    os._exit(_wait_for(program))


def _change_root(job: dict[str, Any]) -> None:
    """Make the tree the root directory; for a program of the host, make the host read-only."""
    # Where systemd(1) has made all mounts shared, what is mounted here would show outside, and
    # pivot_root(2) refuses a root in a shared one. mount_namespaces(7).
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")
    if host := job["host"]:
        _show_host(job["root"], host)
        os.chdir(host["directory"])
    else:
        # pivot_root(2) wants a mount point; and as a clone is nodev, devices in the tree are no
        # more than names.
        _attach(_clone(job["root"]), job["root"])
        mount_dev(f"{job['root']}/dev", job["files"], job["devices"])
        mount_proc(f"{job['root']}/proc")
        mount_sys(f"{job['root']}/sys")
        pivot(job["root"])


def _show_host(root: str, host: dict[str, Any]) -> None:
    """Make all mounts of the host read-only but for the tree and what is writable.

    So a link in the tree that leads out of it leads to nothing that can be written.
    """
    # Cloned before the rest is made read-only: these stay as they are.
    places = [(_clone(root), root), *((_clone(path), path) for path in host["writable"])]
    read_only = syscalls.MOUNT_ATTR_RDONLY
    syscalls.mount_setattr(syscalls.AT_FDCWD, "/", syscalls.AT_RECURSIVE, attr_set=read_only)
    if not host["plain"]:
        memory = _directories("/dev/shm")  # noqa: S108 - often scratch and cache lie there
        mount_dev("/dev", {})
        _attach_outer_first(memory)
        for path in {*_sockets("/run"), *_bound_sockets()}:
            _cover("/dev/null", path)
    _attach_outer_first(places)
    if host["plain"]:
        return
    if host["furnished"]:
        mount_proc(f"{root}/proc")
        mount_sys(f"{root}/sys")
    tree = _clone(root)
    os.mkdir(TREE)
    _attach(tree, TREE)
    mount_proc("/proc")


def _directories(top: str) -> list[tuple[int, str]]:
    """Return clones of the directories in ``top``, and their paths."""
    with os.scandir(top) as entries:
        paths = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return [(_clone(path), path) for path in paths]


def _attach_outer_first(places: list[tuple[int, str]]) -> None:
    """Attach each tree at its path; attached later, an outer one would hide what lies in it."""
    for tree, path in sorted(places, key=lambda place: len(place[1])):
        if path.startswith("/dev/"):
            os.makedirs(path, exist_ok=True)  # as in /dev/shm, which the new /dev has hidden
        _attach(tree, path)


def _sockets(top: str) -> Iterator[str]:
    """Yield the sockets below a directory: connect(2) works on a read-only mount, too."""
    waiting = [top]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                        yield entry.path
        except OSError:  # closed to us, or gone
            continue


def _bound_sockets() -> Iterator[str]:
    """Yield the sockets that the kernel knows by a path, wherever they lie: unix(7), proc(5)."""
    with open("/proc/net/unix", "rb") as table:
        for line in table:
            path = os.fsdecode(line.rstrip(b"\n")[line.find(b" /") + 1 :])
            try:
                if path.startswith("/") and stat.S_ISSOCK(os.lstat(path).st_mode):
                    yield path
            except OSError:  # of another mount namespace, closed to us, or gone
                continue


def _clone(path: str, attributes: int = syscalls.MOUNT_ATTR_NODEV) -> int:
    """Return a detached copy of a directory with all that is mounted below it. open_tree(2).

    attributes: of its topmost mount; what is mounted below is the builder's.
    """
    tree = syscalls.open_tree(syscalls.AT_FDCWD, path, _CLONE | syscalls.AT_RECURSIVE)
    syscalls.mount_setattr(tree, "", syscalls.AT_EMPTY_PATH, attr_set=attributes)
    return tree


def mount_dev(dev: str, files: dict[str, bytes], more: Sequence[str] = ()) -> None:
    """Mount a tmpfs with harmless devices, a devpts of its own, and files.

    more: paths of devices below the host's /dev.
    """
    # Cloned first: ``dev`` may be the host's own /dev, which the tmpfs is going to hide.
    devices = [(_clone_device(name), f"{dev}/{name}") for name in DEVICES]
    devices += [(_clone(path, syscalls.MOUNT_ATTR_RDONLY), dev + path[4:]) for path in more]
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV  # the devices have mounts of their own
    syscalls.mount("tmpfs", dev, "tmpfs", flags, "mode=0755")
    for device, place in devices:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        _attach(device, place)
    for name, mode in (("pts", 0o755), ("shm", 0o1777)):
        os.mkdir(f"{dev}/{name}")
        os.chmod(f"{dev}/{name}", mode)
    # By default nobody may open pts/ptmx, to which /dev/ptmx leads: Linux,
    # Documentation/filesystems/devpts.rst.
    options = "newinstance,ptmxmode=0666"
    syscalls.mount("devpts", f"{dev}/pts", "devpts", syscalls.MS_NOSUID, options)
    for name, target in LINKS.items():
        os.symlink(target, f"{dev}/{name}")
    for name, content in files.items():
        with open(f"{dev}/{name}", "wb") as file:
            file.write(content)


def lend_device(name: str, place: str) -> None:
    """Bind the host's device of a name over a file."""
    _attach(_clone_device(name), place)


def _clone_device(name: str) -> int:
    # Read-only: data pass, but the inode is the host's, and its mode must not be changed.
    return _clone(f"/dev/{name}", syscalls.MOUNT_ATTR_RDONLY)


def mount_proc(place: str) -> None:
    """Mount the proc(5) of this PID namespace, without the files that change the host."""
    syscalls.mount("proc", place, "proc", _QUIET)
    for name in READ_ONLY:
        _cover(f"{place}/{name}", f"{place}/{name}")
    for name in EMPTY:
        _cover("/dev/null", f"{place}/{name}")


def mount_sys(place: str) -> None:
    """Mount the host's sysfs(5), read-only."""
    try:
        syscalls.mount("sysfs", place, "sysfs", _QUIET | syscalls.MS_RDONLY)
    except PermissionError:  # sysfs needs CAP_SYS_ADMIN over the network namespace
        _cover("/sys", place)


def _cover(source: str, target: str) -> None:
    """Bind ``source`` read-only on ``target``, with all that is below it."""
    if not os.path.lexists(target):
        return
    tree = syscalls.open_tree(syscalls.AT_FDCWD, source, _CLONE | syscalls.AT_RECURSIVE)
    flags = syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE
    syscalls.mount_setattr(tree, "", flags, attr_set=syscalls.MOUNT_ATTR_RDONLY)
    _attach(tree, target)


def _attach(tree: int, target: str) -> None:
    flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH
    syscalls.move_mount(tree, "", syscalls.AT_FDCWD, target, flags)
    os.close(tree)


def _scope_sockets() -> None:
    """Put the host's abstract sockets out of reach, where the kernel can do that."""
    try:
        syscalls.scope_abstract_sockets()
    except OSError:
        return  # before Linux 6.12


def _drop_capabilities(also_drop: Sequence[int] = ()) -> None:
    """Drop all capabilities but ALLOWED from the bounding set; also_drop: and these."""
    number = 0
    while (has := _is_in_bounding_set(number)) is not None:
        if has and (number not in ALLOWED or number in also_drop):
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
        number += 1
    # At execve(2) by root, inheritable capabilities pass the bounding set: capabilities(7).
    effective, permitted, _ = syscalls.capget()
    syscalls.capset(effective, permitted, 0)


def _is_in_bounding_set(number: int) -> bool | None:
    """Whether a capability is in the bounding set; None where the kernel does not know it."""
    try:
        return bool(syscalls.prctl(syscalls.PR_CAPBSET_READ, number))
    except OSError:
        return None


def _execute(job: dict[str, Any]) -> NoReturn:
    """Become the program; 127 means that it is not there, 126 that it cannot be executed."""
    # What the builder's caller ignores or blocks, as under nohup(1), is no matter of the tree's.
    for number in _signal.valid_signals() - {_signal.SIGKILL, _signal.SIGSTOP}:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    argv, env = job["argv"], job["env"]
    if not job["host"]:
        os.chdir(job["directory"])
    if user := job["user"]:
        # Groups first: setuid(2) takes away the capability to set them.
        os.setgroups(user[2])
        os.setgid(user[1])
        os.setuid(user[0])
    # Not os.execvpe(): it imports a module, and the host's files are gone.
    directories = (
        [""] if "/" in argv[0] else [f"{each}/" for each in env.get("PATH", os.defpath).split(":")]
    )
    status, why = 127, "not found"
    for directory in directories:
        try:
            os.execve(directory + argv[0], argv, env)
        except OSError as error:
            # As execvp(3): one that may not be executed does not end the search.
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                status, why = 126, str(error.strerror)
    os.write(2, os.fsencode(f"{argv[0]}: {why}\n"))
    os._exit(status)


def _wait_for(child: int) -> int:
    """Reap until ``child`` ends; return its status as the shell does."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    main()
