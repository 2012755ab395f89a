"""What a shared library says of itself: machine, name, what it needs, symbol versions. elf(5).

Reads the dynamic segment, as the loader does, and not the sections, which may
be stripped. Knows nothing of images. The file is hostile: whatever makes no
sense is an ElfError, and no lie in it makes the reader run long.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MACHINES = {
    3: "i386",
    21: "ppc64",
    22: "s390",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv",
}
_LOAD, _DYNAMIC = 1, 2  # p_type
_NEEDED, _STRTAB, _SONAME = 1, 5, 14  # d_tag
_VERDEF, _VERNEED = 0x6FFFFFFC, 0x6FFFFFFE
_WEAK = 2  # vna_flags: the loader only warns when it is missing
_MOST, _LONGEST = 4096, 512  # entries of one table; bytes of one string
_MOST_READS = 20_000  # of one file; the largest real ones need some hundred


class ElfError(Exception):
    """The file is no ELF file that a loader would take."""


class Library:
    """The dynamic section of a library. soname: "" if it has none; needed_libraries: DT_NEEDED.

    required_versions: of symbols, by library (DT_VERNEED); defined_versions: its own (DT_VERDEF).
    """

    def __init__(self, machine: str) -> None:
        self.machine, self.soname = machine, ""
        self.needed_libraries: list[str] = []
        self.required_versions: dict[str, list[str]] = {}
        self.defined_versions: list[str] = []


def read(fd: int) -> Library:
    """Read the dynamic section of the file ``fd``. Raises ElfError, and OSError as pread(2)."""
    head = os.pread(fd, 64, 0)
    if len(head) < 52 or head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
        raise ElfError("it is no ELF file")
    file = _File(fd, head)
    library = Library(file.machine)
    tags = file.dynamic()
    first = dict(reversed(tags))
    names = file.offset(first[_STRTAB]) if _STRTAB in first else 0
    library.soname = file.string(names + first[_SONAME]) if _SONAME in first else ""
    library.needed_libraries = [file.string(names + value) for tag, value in tags if tag == _NEEDED]
    if _VERNEED in first:
        library.required_versions = file.versions_required(file.offset(first[_VERNEED]), names)
    if _VERDEF in first:
        library.defined_versions = file.versions_defined(file.offset(first[_VERDEF]), names)
    return library


class _File:
    """An open ELF file of either class and byte order."""

    def __init__(self, fd: int, head: bytes) -> None:
        self._fd, self._wide = fd, head[4] == 2
        self._big = head[5] == 2
        self._reads = 0
        number = self._number(head, 18, 2)
        self.machine = MACHINES.get(number, f"machine {number}") + self._odd(number)
        start = self._number(head, 32, 8) if self._wide else self._number(head, 28, 4)
        size, count = (self._number(head, at, 2) for at in ((54, 56) if self._wide else (42, 44)))
        if size < (56 if self._wide else 32):
            raise ElfError("it has no program headers")
        self._segments = [self._segment(start + i * size) for i in range(min(count, _MOST))]

    def _odd(self, number: int) -> str:
        """Tell 32 bits on a machine that has 64, which no library of 64 bits can be mixed with."""
        return " of 32 bits" if number in (62, 183, 243) and not self._wide else ""

    def offset(self, address: int) -> int:
        """Return where in the file the ``address`` is loaded from."""
        for kind, offset, start, size in self._segments:
            if kind == _LOAD and start <= address < start + size:
                return offset + address - start
        raise ElfError(f"it points to {address:#x}, where it loads nothing")

    def string(self, offset: int) -> str:
        """Read the string that ends with a zero byte."""
        text, zero, _ = self._bytes(offset, _LONGEST, least=1).partition(b"\0")
        if not zero:
            raise ElfError(f"it has no string at {offset:#x}")
        return text.decode("utf-8", "surrogateescape")

    def dynamic(self) -> list[tuple[int, int]]:
        """Return (d_tag, d_val) for each entry of the dynamic segment, of several the last one.

        So glibc and musl do.
        """
        segments = [(offset, size) for kind, offset, _, size in self._segments if kind == _DYNAMIC]
        if not segments:
            return []
        word, (offset, size) = 8 if self._wide else 4, segments[-1]
        data, tags = self._bytes(offset, min(size, _MOST * 2 * word)), []
        for at in range(0, len(data) - 2 * word + 1, 2 * word):
            tag = self._number(data, at, word)
            if not tag:
                break
            tags.append((tag, self._number(data, at + word, word)))
        return tags

    def versions_required(self, offset: int, names: int) -> dict[str, list[str]]:
        """Read the table of Verneed, and the chain of Vernaux of each, of <elf.h>."""
        required: dict[str, list[str]] = {}
        for at, entry in self._chain(offset, 16, following=12):
            library = self.string(names + self._number(entry, 4, 4))
            auxiliary = at + self._number(entry, 8, 4)
            required[library] = [
                self.string(names + self._number(one, 8, 4))
                for _, one in self._chain(auxiliary, 16, following=12)
                if not self._number(one, 4, 2) & _WEAK
            ]
        return required

    def versions_defined(self, offset: int, names: int) -> list[str]:
        """Read the table of Verdef, and of each its first Verdaux, the version's own name."""
        return [
            self.string(names + self._number(self._bytes(at + self._number(entry, 12, 4), 4), 0, 4))
            for at, entry in self._chain(offset, 20, following=16)
        ]

    def _chain(self, offset: int, size: int, following: int) -> "Iterator[tuple[int, bytes]]":
        """Yield (offset, bytes) of each entry of a chain.

        following: where an entry has the distance to the next, which is 0 in the last.
        """
        distance = 1
        while distance:
            entry = self._bytes(offset, size)
            yield offset, entry
            distance = self._number(entry, following, 4)
            offset += distance

    def _segment(self, offset: int) -> tuple[int, int, int, int]:
        """Return (p_type, p_offset, p_vaddr, p_filesz) of a program header."""
        header = self._bytes(offset, 56 if self._wide else 32)
        places = ((8, 8), (16, 8), (32, 8)) if self._wide else ((4, 4), (8, 4), (16, 4))
        at, address, size = (self._number(header, *place) for place in places)
        return self._number(header, 0, 4), at, address, size

    def _bytes(self, offset: int, size: int, least: int = -1) -> bytes:
        """Read ``size`` bytes; near the file's end fewer, but not fewer than ``least``."""
        self._reads += 1
        if offset >= 1 << 62 or self._reads > _MOST_READS:
            raise ElfError("its tables make no sense")
        data = os.pread(self._fd, size, offset)
        if len(data) < (size if least < 0 else least):
            raise ElfError("it is truncated")
        return data

    def _number(self, data: bytes, at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "big" if self._big else "little")
