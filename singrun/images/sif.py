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
DESCRIPTOR, _HEADER, _MOST = 585, 128, 4096  # bytes, bytes, descriptors
PARTITION, _OCI = 0x4004, (0x400A, 0x400B)
PRIMARY, OVERLAY = 2, 4
SIGNATURE = 0x4005
GROUP = 0xF0000000  # of an id: it is a group's
_ENCRYPTED = (5, 6)  # squashfs in LUKS, and in gocryptfs


class Object:
    """One object of a SIF: its type, where its bytes are, and what its type says of it."""

    def __init__(self, descriptor: bytes) -> None:
        self.kind, self.number = _number(descriptor, 0, 4), _number(descriptor, 5, 4)
        self.group, self.link = _number(descriptor, 9, 4), _number(descriptor, 13, 4)
        self.offset, self.size = _number(descriptor, 17, 8), _number(descriptor, 25, 8)
        self.created, self.modified = _number(descriptor, 41, 8), _number(descriptor, 49, 8)
        self.name = descriptor[73:201].rstrip(b"\0")
        self.file_system, self.part = _number(descriptor, 201, 4), _number(descriptor, 205, 4)
        self.machine = descriptor[209:211]

    def is_partition(self, part: int) -> bool:
        """Whether it is a partition of this kind."""
        return self.kind == PARTITION and self.part == part


def root_partition(path: str, fd: int, head: bytes, size: int) -> "tuple[int, int]":
    """Return the offset and length of the primary partition of an open SIF that shall run here.

    head: its first bytes; size: of the file. RunError: there is none that can be used here.
    """
    rows = objects(path, fd, head, size)
    root = primary(path, rows)
    _check_machine(path, root.machine)
    if any(each.is_partition(OVERLAY) for each in rows):
        say(f"{path} has an overlay partition, which is left out; it shows what was built.")
    return root.offset, root.size


def objects(path: str, fd: int, head: bytes, size: int) -> "list[Object]":
    """Return the objects of an open SIF, which all lie in the file. RunError: it is damaged."""
    if head[42:44] != b"01":
        raise RunError(f"Cannot read {path}", why="It is a SIF of another version than 1.")
    count, offset = _number(head, 88, 8), _number(head, 96, 8)
    if not (count <= _MOST and _HEADER <= offset <= size - count * DESCRIPTOR):
        raise _damaged(path, "Its table of descriptors lies outside the file, or is too long.")
    table = os.pread(fd, count * DESCRIPTOR, offset)
    rows = [table[at : at + DESCRIPTOR] for at in range(0, len(table), DESCRIPTOR)]
    # Byte 4 tells whether a row is in use: who deletes an object leaves its row in the table.
    present = [Object(row) for row in rows if len(row) == DESCRIPTOR and row[4]]
    for each in present:
        if not (_HEADER <= each.offset <= size and each.size <= size - each.offset):
            why = f"An object ends at byte {each.offset + each.size}, the file at {size}."
            remedy = "Copy or build it again."
            raise RunError(f"The image {path} is truncated", why=why, remedy=remedy)
    return present


def primary(path: str, rows: "list[Object]") -> Object:
    """Return the partition with the root file system. RunError: none, two, or an encrypted one."""
    roots = [each for each in rows if each.is_partition(PRIMARY)]
    if not roots:
        raise _without_root(path, {each.kind for each in rows})
    if len(roots) > 1:
        raise _damaged(path, "It has two primary partitions.")
    if roots[0].file_system in _ENCRYPTED:
        why = "Its file system is encrypted, and singbuild and singrun decrypt none."
        remedy = "Decrypt it with the program that made it: apptainer build --sandbox DIR IMAGE"
        raise RunError(f"Cannot open {path}", why=why, remedy=remedy)
    return roots[0]


def _without_root(path: str, kinds: "set[int]") -> RunError:
    why, remedy = "It has no primary partition.", "Ask who made it for one with a root file system."
    if kinds.intersection(_OCI):
        why = "It is an OCI-SIF of SingularityCE, which holds layers instead of one file system."
        remedy = "Take the image from its registry: singrun run docker://NAME"
    return RunError(f"Cannot open {path}", why=why, remedy=remedy)


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
