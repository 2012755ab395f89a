"""Who may use an image file together: readers share a lock on it, a writer has it alone. flock(2).

Nobody stands by to hold a lock while the program runs. A lock belongs to the
open file, so it lives in whoever else has that file open: the loop device or
the FUSE daemon, which both end with the mount.
"""

import fcntl

_PATIENCE, _PAUSE = 1.0, 0.01  # seconds; a daemon writes its last blocks after the program's end


def take(fd: int, path: str, *, exclusive: bool) -> None:
    """Lock the open file ``fd``. RunError names the holder if it stays busy."""
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    if _take(fd, kind):
        return
    import time  # only who waits needs it

    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        time.sleep(_PAUSE)
        if _take(fd, kind):
            return
    from singrun.images import lock_holders  # only an error pays for it

    raise lock_holders.busy(fd, path, exclusive=exclusive)


def _take(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: nobody can hold one
    return True
