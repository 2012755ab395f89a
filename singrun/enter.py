"""The story of a launch: from the caller's request to the program, in one process.

Nothing supervises the program: this process prepares namespaces and mounts,
and then becomes it. When it ends, its mount namespace ends, and with that
everything that was mounted here.
"""

import errno
import os

from singrun import environment, init, namespaces, program, sharing, strategies, syscalls
from singrun.errors import RunError, say
from singrun.identity import Caller, forbid_new_privileges
from singrun.image import open_image
from singrun.mounts import Bind, Mount
from singrun.request import Request
from singrun.underlay import Root
from singrun.workplace import Directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def enter(request: Request) -> "NoReturn":
    """Launch. Returns never: either the program runs, or RunError says why not."""
    umask = os.umask(0o022)
    image = open_image(request.image)
    caller = Caller()
    directory = Directory()
    variables = environment.inner(image.path, request.verb, clean=request.clean_environment)

    proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    privileged = namespaces.leave_host(caller, proc)
    if request.ipc:
        syscalls.unshare(syscalls.CLONE_NEWIPC)
    if request.pid:
        init.fork_into_pid_namespace()
        proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    table = [mount.pin() for mount in sharing.table(request, caller, directory.physical)]

    stage = _stage()
    strategies.mount(
        image,
        f"{stage}/image",
        privileged=privileged,
        forced=request.mount_with,
        debug=request.debug,
    )
    root = Root(f"{stage}/image")
    _check_shell(root, image.path)
    home = sharing.home(request, caller)
    for mount in [*table, *_identity(stage, root, caller, home)]:
        if request.debug:
            say(mount.describe())
        mount.execute(root)
    root.seal()

    namespaces.pivot(root)
    forbid_new_privileges()
    if not privileged:
        namespaces.become(caller, proc)
    variables[b"PWD"] = os.fsencode(directory.enter(request.directory, home))
    if request.home:
        variables[b"HOME"] = os.fsencode(home)
    if request.pid:
        init.fork_and_reap()
    os.umask(umask)
    environment.restore_signals(environment.SIGPIPE, environment.SIGXFSZ)
    program.execute(request.verb, request.arguments, variables)


def _stage() -> str:
    """Return a private tmpfs with a directory ``image``, where the root is put together.

    It hangs on /proc/PID/task. When this process is killed, the kernel takes that directory
    away, and everything mounted on it in any namespace (d_invalidate, Linux 3.18): no moment
    is left in which a kill leaves fuse2fs behind, sitting in a namespace that holds its mount.
    """
    stage = f"/proc/{os.readlink('/proc/self')}/task"
    syscalls.mount("tmpfs", stage, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0755")
    os.mkdir(f"{stage}/image")
    return stage


def _check_shell(root: Root, image: str) -> None:
    try:
        os.close(root.open("/bin/sh", os.O_PATH))
    except OSError as error:
        why = f"Every program is started with it; looking for it in {image}: {error.strerror}."
        remedy = "Build the image again with a shell in it."
        if error.errno != errno.ENOENT:
            remedy = f"Check it with: e2fsck -fn {image}"
        raise RunError("Container does not have a valid /bin/sh", why=why, remedy=remedy) from None


def _identity(stage: str, root: Root, caller: Caller, home: str) -> list[Mount]:
    """Return mounts of the image's passwd and group with the caller's lines before them."""
    table: list[Mount] = []
    for path, lines in (
        ("/etc/passwd", caller.passwd_line(home)),
        ("/etc/group", caller.group_lines()),
    ):
        source = f"{stage}/{path.rpartition('/')[2]}"
        with open(source, "wb") as file:
            file.write(lines + root.read(path))
        table.append(Bind(source, path, why="the same user inside"))
    return table
