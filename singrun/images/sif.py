"""Finds the root file system in a SIF, the file of Singularity 3 and of Apptainer.

Layout: a header, a table of descriptors, the objects; little-endian, without padding. Source:
github.com/sylabs/sif, pkg/sif/sif.go and descriptor.go. All of it is hostile until checked.
"""

import os

from singrun.errors import RunError, say

MACHINES = {  # by the word of the header: the name of Go, and that of uname(2)
    b"01": ("386", "i686"),
    b"02": ("amd64", "x86_64"),
    b"03": ("arm", "armv7l"),
    b"04": ("arm64", "aarch64"),
    b"05": ("ppc64", "ppc64"),
    b"06": ("ppc64le", "ppc64le"),
    b"07": ("mips", "mips"),
    b"08": ("mipsle", "mipsel"),
    b"09": ("mips64", "mips64"),
    b"10": ("mips64le", "mips64el"),
    b"11": ("s390x", "s390x"),
    b"12": ("riscv64", "riscv64"),
    b"13": ("loong64", "loongarch64"),
}
_ALSO = {"x86_64": ("i686",), "aarch64": ("armv7l",)}  # what their kernels execute besides
_EMULATED = "/proc/sys/fs/binfmt_misc/qemu-"
_HEADER, _DESCRIPTOR, _MOST = 128, 585, 4096  # bytes, bytes, descriptors
_PARTITION, _OCI = 0x4004, (0x400A, 0x400B)
_PRIMARY, _OVERLAY = 2, 4
_ENCRYPTED = (5, 6)  # squashfs in LUKS, and in gocryptfs


def root_partition(path: str, fd: int, head: bytes, size: int) -> "tuple[int, int]":
    """Return the offset and length of the primary partition of an open SIF.

    head: its first bytes; size: of the file. RunError: there is none that can be used here.
    """
    if head[42:44] != b"01":
        raise RunError(f"Cannot read {path}", why="It is a SIF of another version than 1.")
    primary = overlay = None
    kinds = set()
    for each in _descriptors(path, fd, head, size):
        kind = _number(each, 0, 4)
        kinds.add(kind)
        part = _number(each, 205, 4)
        if kind == _PARTITION and part == _PRIMARY:
            if primary:
                raise _damaged(path, "It has two primary partitions.")
            primary = each
        elif kind == _PARTITION and part == _OVERLAY:
            overlay = each
    if not primary:
        raise _without_root(path, kinds)
    offset, length = _number(primary, 17, 8), _number(primary, 25, 8)
    if not (_HEADER <= offset <= size and 0 < length <= size - offset):
        raise RunError(
            f"The image {path} is truncated",
            why=f"Its partition ends at byte {offset + length}, the file at {size}.",
            remedy="Copy or build it again.",
        )
    if _number(primary, 201, 4) in _ENCRYPTED:
        why = "Its file system is encrypted, and singrun decrypts none."
        remedy = "Decrypt it with the program that made it: apptainer build --sandbox DIR IMAGE"
        raise RunError(f"Cannot mount {path}", why=why, remedy=remedy)
    _check_machine(path, primary[209:211])
    if overlay:
        say(f"{path} has an overlay partition, which is left out; it shows what was built.")
    return offset, length


def _descriptors(path: str, fd: int, head: bytes, size: int) -> "list[bytes]":
    """Return the descriptors in use."""
    count, offset = _number(head, 88, 8), _number(head, 96, 8)
    if not (count <= _MOST and _HEADER <= offset <= size - count * _DESCRIPTOR):
        raise _damaged(path, "Its table of descriptors lies outside the file, or is too long.")
    table = os.pread(fd, count * _DESCRIPTOR, offset)
    found = [table[at : at + _DESCRIPTOR] for at in range(0, len(table), _DESCRIPTOR)]
    return [each for each in found if len(each) == _DESCRIPTOR and each[4]]


def _without_root(path: str, kinds: "set[int]") -> RunError:
    why, remedy = "It has no primary partition.", "Ask who made it for one with a root file system."
    if kinds.intersection(_OCI):
        why = "It is an OCI-SIF of SingularityCE, which holds layers instead of one file system."
        remedy = "Take the image from its registry: singrun run docker://NAME"
    return RunError(f"Cannot mount {path}", why=why, remedy=remedy)


def _check_machine(path: str, word: bytes) -> None:
    """Refuse programs for another processor, unless the kernel hands them to an emulator."""
    name, machine = MACHINES.get(word, ("", ""))
    host = os.uname().machine
    if not name or machine == host or machine in _ALSO.get(host, ()):
        return
    if os.path.exists(f"{_EMULATED}{'arm' if name == 'arm' else machine}"):
        return
    why = f"Its programs are for {name} processors, this host has {host}."
    raise RunError(f"Cannot run {path}", why=why, remedy="Get the image for this processor.")


def _damaged(path: str, why: str) -> RunError:
    return RunError(f"The SIF {path} is damaged", why=why, remedy="Copy or build it again.")


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")
