"""Libraries and the loader's cache are read as others read them, and lies in them do no harm."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection, GNUVerNeedSection
from hypothesis import given, settings
from hypothesis import strategies as st

from singrun.hardware import elf, linker

CACHE = Path("/etc/ld.so.cache")
LIBRARIES = sorted(
    {
        Path(path).resolve()
        for name in ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "libz.so.1")
        for path in linker.Host(str(CACHE)).paths(name)
    }
)
SAMPLE = min(LIBRARIES, key=lambda path: path.stat().st_size).read_bytes()


def read(path: Path) -> elf.Library:
    with path.open("rb") as file:
        return elf.read(file.fileno())


@pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: path.name)
def test_a_library_is_read_as_pyelftools_reads_it(path: Path) -> None:
    ours = read(path)
    with path.open("rb") as file:
        theirs = ELFFile(file)
        dynamic = theirs.get_section_by_name(".dynamic")
        assert isinstance(dynamic, DynamicSection)
        tags: list[Any] = list(dynamic.iter_tags())
        assert [
            tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"
        ] == ours.needed_libraries
        assert [tag.soname for tag in tags if tag.entry.d_tag == "DT_SONAME"] == [ours.soname]
        defined, required = [], {}
        for section in theirs.iter_sections():
            if isinstance(section, GNUVerDefSection):
                defined = [next(names).name for _, names in section.iter_versions()]
            if isinstance(section, GNUVerNeedSection):
                required = {v.name: [n.name for n in names] for v, names in section.iter_versions()}
        assert (defined, required) == (ours.defined_versions, ours.required_versions)


def test_what_is_no_library_is_said(tmp_path: Path) -> None:
    for data in (b"", b"\x7fELF", b"INPUT(-lx)", SAMPLE[:60], SAMPLE[:3000]):
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(elf.ElfError):
            read(tmp_path / "file")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), max_size=40))
def test_no_change_to_a_library_makes_the_reader_fail(changes: list[tuple[int, int]]) -> None:
    check_bytes(SAMPLE, changes)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 0x500), st.binary(min_size=8, max_size=8)), max_size=8))
def test_nor_does_one_to_its_headers(changes: list[tuple[int, bytes]]) -> None:
    check_bytes(SAMPLE, [(at + n, byte) for at, text in changes for n, byte in enumerate(text)])


def check_bytes(sample: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(sample)
    for at, byte in changes:
        data[at] = byte
    path = Path("/dev/shm/singrun-test-elf")
    path.write_bytes(data)
    try:
        library = read(path)
    except elf.ElfError:
        return
    finally:
        path.unlink()
    assert isinstance(library.machine, str)


def test_of_several_dynamic_segments_one_is_read(tmp_path: Path) -> None:
    """With so many headers for one segment that has no end its entries were millions."""
    count, rows = 100, 4096
    start = 64 + 56 * count
    head = b"\x7fELF\2\1\1".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    header = struct.pack("<IIQQQQQQ", 2, 4, start, start, start, 16 * rows, 16 * rows, 8)
    (tmp_path / "file").write_bytes(head + header * count + struct.pack("<QQ", 30, 8) * rows)
    with (tmp_path / "file").open("rb") as file:
        assert [*elf._File(file.fileno(), head).dynamic()] == [(30, 8)] * rows


def test_rows_of_a_hostile_cache_share_no_strings_without_end() -> None:
    rows = 1000
    text = 48 + rows * 24
    data = b"glibc-ld.so.cache1.1" + struct.pack("<I", rows) + bytes(24)
    data += struct.pack("<IIIIQ", 1, text + 1, text, 0, 0) * rows
    data += b"/" + b"a" * 4000 + b"\0"
    entries = linker.entries(data)
    assert entries
    assert sum(len(name) + len(path) for name, path in entries) <= 4 * len(data)


def test_the_loaders_cache_is_read_as_ldconfig_prints_it() -> None:
    listing = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True)
    lines = [line.split() for line in listing.stdout.splitlines()[1:] if " => " in line]
    printed = [(line[0], line[-1]) for line in lines]
    assert linker.entries(CACHE.read_bytes()) == printed
    old_format_before = b"ld.so-1.7.0\0" + bytes(20) + CACHE.read_bytes()
    assert linker.entries(old_format_before) == printed


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=40), st.integers(0))
def test_a_hostile_cache_gives_paths_or_nothing(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(CACHE.read_bytes())
    for at, byte in changes:
        data[at % len(data)] = byte
    for name, path in linker.entries(bytes(data[: cut % (len(data) + 1)])):
        assert "/" not in name
        assert path.startswith("/")
