"""A tree's inodes on disk are those of a list in memory, and a large tree takes no more memory."""

from __future__ import annotations

import filecmp
import os
import random
import stat
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singbuild.errors import HostError
from singbuild.ext3.node import Node, Owner
from singbuild.ext3.number_map import NumberMap
from singbuild.ext3.writer.inventory import inventory
from singbuild.ext3.writer.seal import seal, seal_tree
from singbuild.ext3.writer.spool import Spool
from singbuild.formats.loading import opened
from singbuild.images.verification import verify
from tests.bench.image_trees import EPOCH, many_files, trees, with_manifest
from tests.bench.seal_trees import Tree, build

SOME = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
ROOT, FIRST = 2, 12


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few records, and the rest goes into a file."""
    monkeypatch.setattr(Spool, "in_memory", 200)


@SOME
@given(st.lists(st.tuples(st.sampled_from("acr"), st.integers(0), st.binary(max_size=120))))
def test_a_spool_gives_back_the_bytes_that_it_took(
    little_memory: None, steps: list[tuple[str, int, bytes]]
) -> None:
    spool, model, appended = Spool(), bytearray(), [(0, 0)]
    for step, number, data in steps:
        if step == "a":
            appended.append((len(model), len(data)))
            assert spool.append(data) == len(model)
            model += data
        elif step == "c":
            start, size = appended[number % len(appended)]
            spool.change(start, data[:size])
            model[start : start + len(data[:size])] = data[:size]
        else:
            start = number % (len(model) + 1)
            assert spool.read(start, len(data) * 3) == model[start : start + len(data) * 3]
    assert spool.read(0, spool.size) == model
    assert b"".join(spool.records(16)) == model


def test_a_process_reads_the_spool_that_it_was_forked_with(little_memory: None) -> None:
    spool = Spool()
    for number in range(100):
        spool.append(b"%04d" % number)
    content = spool.read(0, spool.size)
    process = os.fork()
    if not process:
        os._exit(spool.read(0, 400) != content)
    spool.append(b"more" * 100)
    assert os.waitpid(process, 0)[1] == 0


def test_a_full_disk_is_told() -> None:
    """Here by the limit on the size of a file."""
    script = (
        "import resource; from singbuild.ext3.writer.spool import Spool\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "Spool.in_memory = 100; spool = Spool()\n"
        "for _ in range(30): spool.append(bytes(50))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert f"{HostError.__name__}: a temporary file" in done.stderr
    assert "File too large" in done.stderr


def test_a_temporary_directory_that_is_not_there_is_no_matter(
    little_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    spool = Spool()
    spool.append(bytes(1000))
    assert spool.read(0, 2000) == bytes(1000)


@given(st.lists(st.tuples(st.integers(0, 2**70) | st.integers(0, 300), st.integers(0, 2**64 - 1))))
def test_a_map_of_numbers_is_a_dictionary(pairs: list[tuple[int, int]]) -> None:
    numbers = NumberMap()
    for inode, number in pairs:
        numbers.set(inode, number)
    model = dict(pairs)
    assert [numbers.get(inode) for inode in model] == list(model.values())
    assert all(numbers.get(inode + 1) == model.get(inode + 1, 0) for inode in model)


def plain_inventory(
    root: Path, owners: dict[bytes, Owner], times: dict[bytes, int]
) -> tuple[list[Node], list[list[tuple[bytes, int, int]]]]:
    """The inodes in lists, as memory would hold them, and the names in each directory."""
    place = os.fsencode(root)
    rows: dict[int, dict[str, int]] = {}
    paths, parents = {ROOT: b""}, {ROOT: ROOT}
    listings: dict[int, list[tuple[bytes, int]]] = {}
    numbers: dict[int, int] = {}

    def add(path: bytes, number: int) -> None:
        status, owner = os.lstat(place + b"/" + path), owners.get(path)
        row = {"number": number, "mode": status.st_mode, "uid": status.st_uid}
        row |= {"gid": status.st_gid, "mtime": min(status.st_mtime_ns // 10**9, EPOCH)}
        row |= {"size": status.st_size, "device": status.st_rdev, "links": 1}
        if owner:
            row |= {"uid": owner.uid, "gid": owner.gid}
            if owner.mode and stat.S_ISREG(status.st_mode):
                row |= {"mode": owner.mode, "device": owner.device, "size": 0}
        if stat.S_ISDIR(status.st_mode):
            row |= {"size": 0, "links": 2 if path else 3}
        rows[number] = row

    add(b"", ROOT)
    waiting = [ROOT]
    while waiting:
        above = waiting.pop()
        prefix = paths[above] + b"/" if paths[above] else b""
        below, listings[above] = [], []
        for name in sorted(os.listdir(place + b"/" + paths[above])):
            status = os.lstat(place + b"/" + prefix + name)
            if status.st_ino in numbers:
                number = numbers[status.st_ino]
                rows[number]["links"] += 1
            else:
                number = numbers[status.st_ino] = FIRST + len(rows) - 1
                paths[number], parents[number] = prefix + name, above
                add(prefix + name, number)
            if stat.S_ISDIR(status.st_mode):
                rows[above]["links"] += 1
                below.append(number)
            rows[number]["mtime"] = times.get(prefix + name, rows[number]["mtime"])
            listings[above].append((name, number))
        waiting += reversed(below)
    nodes = [Node(path=paths[n], parent=parents[n], **row) for n, row in rows.items()]
    return nodes, [
        [(name, number, rows[number]["mode"]) for name, number in listings[node.number]]
        for node in nodes
        if node.number in listings
    ]


@SOME
@given(trees(), st.randoms(use_true_random=False))
def test_inodes_on_disk_are_those_of_a_list(
    little_memory: None, tree: Tree, chance: random.Random
) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place, "tree")
        root.mkdir()
        build(tree, root, 0)
        paths = [*tree.specs, *tree.links]
        some = chance.sample(paths, len(paths) // 2)
        device = Owner(7, 8, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        first_names = {path: chance.choice([Owner(3, 4), device]) for path in some}
        times = {path: EPOCH + 5 for path in paths if chance.random() < 0.3}
        expected, names = plain_inventory(root, first_names, times)
        nodes = inventory(root, EPOCH, first_names, times)
        assert list(nodes) == expected
        assert list(nodes.directories()) == list(
            zip([node for node in expected if stat.S_ISDIR(node.mode)], names, strict=True)
        )
        assert len(nodes) == len(expected)
        assert nodes.root == expected[0]
        assert nodes.data_bytes == sum(n.size for n in expected if stat.S_ISREG(n.mode))


@SOME
@given(trees())
def test_an_image_is_the_same_whatever_memory_there_is(tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        root = Path(place, "tree")
        root.mkdir()
        build(tree, root, 0)
        if b".singularity.d" not in tree.specs:
            with_manifest(root)
        one = seal(root, Path(place, "one"), epoch=EPOCH).path
        patch.setattr(Spool, "in_memory", 100)
        other = seal(root, Path(place, "other"), epoch=EPOCH).path
        assert filecmp.cmp(one, other, shallow=False)
        with opened(one) as image:
            again = seal_tree(image, Path(place, "again"), epoch=EPOCH).path
        assert filecmp.cmp(one, again, shallow=False)
        verify(one)


def peak(work: Callable[[], object]) -> int:
    """Bytes that the work had at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_inodes_take_no_memory(tmp_path: Path, little_memory: None) -> None:
    """In lists they took 500 bytes each; what remains is for those that have two names."""
    few, many = (
        peak(partial(inventory, many_files(tmp_path / f"{number}", number), EPOCH))
        for number in (5, 50)
    )
    assert many - few < 45 * 100 * 100
