"""What the kernel must have, and the version that brought it; docs/runtime.md has the same table.

A call that is there refuses a descriptor of nothing (EBADF, or EPERM before it looks); one that is
not says ENOSYS. man 2 of each, "VERSIONS".
"""

import errno

from singrun import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NOTHING = -1
OVERLAY = "5.11"  # in user namespaces: Linux, commit 459c7c565ac3


def _probe(action: "Callable[[], object]") -> "Callable[[], None]":
    """Return a function that raises OSError only when the kernel does not know the call."""

    def call() -> None:
        try:
            action()
        except OSError as error:
            if error.errno == errno.ENOSYS:
                raise

    return call


CALLS = [
    ("fsopen(2), fsmount(2)", "5.2", _probe(lambda: syscalls.fsconfig(_NOTHING, 6, None, None))),
    ("open_tree(2)", "5.2", _probe(lambda: syscalls.open_tree(_NOTHING, "x", 0))),
    ("move_mount(2)", "5.2", _probe(lambda: syscalls.move_mount(_NOTHING, "x", _NOTHING, "x", 0))),
    ("openat2(2)", "5.6", _probe(lambda: syscalls.openat2(_NOTHING, "x", 0, 0))),
    (
        "mount_setattr(2)",
        "5.12",
        _probe(lambda: syscalls.mount_setattr(_NOTHING, "x", 0, attr_set=1)),
    ),
]
