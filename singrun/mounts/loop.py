"""Loop devices: a file as a block device. loop(4), <linux/loop.h>."""

import errno
import fcntl
import os
import sys

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A  # Linux 5.8
_LO_FLAGS_READ_ONLY, _LO_FLAGS_AUTOCLEAR = 1, 4
_ATTEMPTS = 1000  # others may take the free device before we do


def attach(fd: int, offset: int, *, read_only: bool) -> tuple[str, int]:
    """Attach the open file ``fd``, from ``offset`` bytes on, to a free loop device.

    Returns the device's path and a descriptor of it. The device frees itself
    when its last user is gone, so keep the descriptor until it is mounted.
    Raises OSError: ENOENT or EACCES where the host gives us no loop devices.
    """
    # AUTOCLEAR: a launch that is killed leaves no device, as nobody stays to detach it.
    flags = _LO_FLAGS_AUTOCLEAR | (_LO_FLAGS_READ_ONLY if read_only else 0)
    config = _loop_config(fd, offset, flags)
    control = os.open("/dev/loop-control", os.O_RDWR)
    try:
        for _ in range(_ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(path, os.O_RDONLY if read_only else os.O_RDWR)
            if _configured(device, config):
                return path, device
            # GET_FREE reserves nothing: another process configured the device between the two.
            os.close(device)
            os.sched_yield()
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), "/dev/loop-control")


def _loop_config(fd: int, offset: int, flags: int) -> bytes:
    """Return a struct loop_config; its block size 0 lets the kernel choose."""

    def u32(value: int) -> bytes:
        return value.to_bytes(4, sys.byteorder)

    begin = u32(fd) + u32(0) + bytes(3 * 8)  # fd, block_size; lo_device, lo_inode, lo_rdevice
    middle = offset.to_bytes(8, sys.byteorder) + bytes(8 + 3 * 4)  # lo_offset; up to lo_flags
    end = bytes(64 + 64 + 32 + 2 * 8 + 8 * 8)  # two names, a key, lo_init; reserved
    return begin + middle + u32(flags) + end


def _configured(device: int, config: bytes) -> bool:
    """Whether the device is ours now; False when another process was quicker."""
    try:
        fcntl.ioctl(device, _LOOP_CONFIGURE, config)
    except OSError as error:
        if error.errno != errno.EBUSY:
            os.close(device)
            raise
        return False
    return True
