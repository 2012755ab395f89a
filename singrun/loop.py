"""Loop devices: a file as a block device. loop(4), <linux/loop.h>."""

import ctypes
import errno
import fcntl
import os

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A  # Linux 5.8
_LO_FLAGS_READ_ONLY, _LO_FLAGS_AUTOCLEAR = 1, 4
_ATTEMPTS = 1000  # others may take the free device before we do


class _LoopInfo(ctypes.Structure):
    """struct loop_info64."""

    _fields_ = (
        ("lo_device", ctypes.c_uint64),
        ("lo_inode", ctypes.c_uint64),
        ("lo_rdevice", ctypes.c_uint64),
        ("lo_offset", ctypes.c_uint64),
        ("lo_sizelimit", ctypes.c_uint64),
        ("lo_number", ctypes.c_uint32),
        ("lo_encrypt_type", ctypes.c_uint32),
        ("lo_encrypt_key_size", ctypes.c_uint32),
        ("lo_flags", ctypes.c_uint32),
        ("lo_file_name", ctypes.c_char * 64),
        ("lo_crypt_name", ctypes.c_char * 64),
        ("lo_encrypt_key", ctypes.c_char * 32),
        ("lo_init", ctypes.c_uint64 * 2),
    )


class _LoopConfig(ctypes.Structure):
    """struct loop_config; block_size 0 lets the kernel choose."""

    _fields_ = (
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("info", _LoopInfo),
        ("reserved", ctypes.c_uint64 * 8),
    )


def attach(fd: int, offset: int, *, read_only: bool) -> tuple[str, int]:
    """Attach the open file ``fd``, from ``offset`` bytes on, to a free loop device.

    Returns the device's path and a descriptor of it. The device frees itself
    when its last user is gone, so keep the descriptor until it is mounted.
    Raises OSError: ENOENT or EACCES where the host gives us no loop devices.
    """
    config = _LoopConfig(fd=fd)
    config.info.lo_offset = offset
    config.info.lo_flags = _LO_FLAGS_AUTOCLEAR | (_LO_FLAGS_READ_ONLY if read_only else 0)
    control = os.open("/dev/loop-control", os.O_RDWR)
    try:
        for _ in range(_ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(path, os.O_RDONLY if read_only else os.O_RDWR)
            if _configured(device, config):
                return path, device
            os.close(device)
            os.sched_yield()
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), "/dev/loop-control")


def _configured(device: int, config: _LoopConfig) -> bool:
    """Whether the device is ours now; False when another process was quicker."""
    try:
        fcntl.ioctl(device, _LOOP_CONFIGURE, config)
    except OSError as error:
        if error.errno != errno.EBUSY:
            os.close(device)
            raise
        return False
    return True
