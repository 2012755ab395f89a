"""Launches in which a process waits: --pid, limits, instances, writing by way of a FUSE daemon.

A PID namespace needs a process 1 that reaps orphans, and a process outside that
waits for it: pid_namespaces(7). A FUSE daemon writes its last
blocks after the program's end, and only then the image is complete.
"""

import os

from singrun.errors import say
from singrun.images.image import Image, is_clean
from singrun.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from singrun.namespaces.holding import Holder
    from singrun.namespaces.limits import Cgroup
    from singrun.namespaces.waiting import Waiter


def stand_by(
    request: Request,
    image: Image,
    home: str,
    writable_images: list[tuple[Image, int]],
    trees: list[int],
    cgroup: "Cgroup | None",
) -> "Waiter | Holder | None":
    """Fork where a process must stay behind: return in the child, wait in the parent.

    home: as seen inside. writable_images: those that a daemon writes, with its
    fuse.Mounting.daemon_fd.
    trees: the descriptors of mounted trees, which the waiting process closes, or it would keep
    them mounted. cgroup: of the program, removed after it.
    """
    if request.program.instance:
        from singrun.namespaces.holding import Holder

        own_home = home if request.mounts.home or request.isolation.fakeroot else ""
        holder = Holder(request.program, image, own_home, contain=request.mounts.contain)
        holder.fork(trees)
        return holder
    if not request.isolation.pid and not writable_images and not cgroup:
        return None

    from singrun.namespaces.waiting import Waiter  # most launches are one process

    def afterwards() -> None:
        for one, daemon_fd in writable_images:
            os.read(daemon_fd, 1)  # end of file: the daemon has written all and ended
            _warn_unless_clean(one)
        if cgroup:
            cgroup.remove()

    waiter = Waiter(image.path)
    waiter.fork(own_pids=request.isolation.pid, trees=trees, afterwards=afterwards)
    return waiter


def _warn_unless_clean(image: Image) -> None:
    if not is_clean(image):
        say(f"{image.path} was not written completely.")
        say(f"Check it with: e2fsck -f {image.path}")
