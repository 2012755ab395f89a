"""The seal without privileges: what e2fsprogs makes of its images, and what it refuses."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singbuild.errors import HostError, ImageError
from singbuild.ext3.geometry import GROUP_BLOCKS, MAX_FILE_BYTES, Geometry, smallest_geometry
from singbuild.ext3.node import shown
from singbuild.ext3.writer.directory import half_md4
from singbuild.ext3.writer.seal import seal
from singrun.signatures.statement import NOTE
from tests.bench.host import wait_until

EPOCH = 1_700_000_000
needs_e2fsprogs = pytest.mark.skipif(not shutil.which("debugfs"), reason="needs e2fsprogs")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    top.mkdir()
    return top


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "image"


def check(image: Path) -> str:
    done = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def debugfs(image: Path, command: str) -> str:
    done = subprocess.run(["debugfs", "-R", command, image], capture_output=True, text=True)
    return done.stdout


def field(listing: str, name: str) -> str:
    """A line of show_super_stats."""
    match = re.search(rf"^{name}: +(.*)$", listing, re.M)
    assert match, listing
    return match[1]


def refused(tree: Path, image: Path) -> ImageError:
    """The error of a seal that must leave nothing at the target."""
    with pytest.raises(ImageError) as caught:
        seal(tree, image, epoch=EPOCH)
    assert not image.exists()
    return caught.value


@needs_e2fsprogs
def test_an_image_is_a_script_and_an_ext3_file_system_with_the_published_features(
    tree: Path, image: Path
) -> None:
    (tree / "hello").write_text("hello\n")
    sealed = seal(tree, image, epoch=EPOCH)
    lines = f"#!/usr/bin/env singrun\n# content {sealed.digest}\n".encode() + NOTE
    assert image.read_bytes()[:1024] == lines.ljust(1024, b"\0")
    assert sealed.size == image.stat().st_size == image.stat().st_size // 4096 * 4096
    listing = debugfs(image, "show_super_stats -h")
    features = "has_journal ext_attr resize_inode dir_index filetype sparse_super large_file"
    assert field(listing, "Filesystem features") == features
    assert field(listing, "Filesystem UUID") == sealed.uuid
    assert field(listing, "Free blocks") == "0"
    assert debugfs(image, "cat /hello") == "hello\n"
    check(image)


@needs_e2fsprogs
def test_later_times_become_the_epoch_and_earlier_ones_stay(tree: Path, image: Path) -> None:
    for name, time in (("new", EPOCH + 9), ("old", 12345), ("ancient", -(2**31))):
        (tree / name).touch()
        os.utime(tree / name, (99, time))
    seal(tree, image, epoch=EPOCH)
    for name, time in (("new", EPOCH), ("old", 12345), ("ancient", 2**31)):
        stamps = re.findall(r"time: 0x(\w+):(\w+)", debugfs(image, f"stat {name}"))
        assert stamps == [(f"{time:08x}", "00000000")] * 4


@needs_e2fsprogs
def test_dates_after_2038_take_the_extra_bits(tree: Path, image: Path) -> None:
    (tree / "late").touch()
    os.utime(tree / "late", (0, 2**33 + 5))
    seal(tree, image, epoch=2**34 - 2**31 - 1)
    assert "mtime: 0x00000005:00000002" in debugfs(image, "stat late")
    check(image)


@needs_e2fsprogs
def test_a_socket_and_a_fifo_survive(
    tree: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tree / "fifo")
    monkeypatch.chdir(tree)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    seal(tree, image, epoch=EPOCH)
    assert "Type: FIFO" in debugfs(image, "stat fifo")
    assert "Type: socket" in debugfs(image, "stat socket")


@needs_e2fsprogs
def test_hard_linked_symbolic_links_stay_one(tree: Path, image: Path) -> None:
    (tree / "first").symlink_to("target")
    os.link(tree / "first", tree / "second", follow_symlinks=False)
    seal(tree, image, epoch=EPOCH)
    assert debugfs(image, "stat first") == debugfs(image, "stat second")
    assert "Links: 2" in debugfs(image, "stat second")
    check(image)


@needs_e2fsprogs
def test_a_name_of_every_length_and_a_directory_of_every_number_of_blocks(
    tree: Path, image: Path
) -> None:
    for length in range(1, 256):
        (tree / ("n" * length)).touch()
    for blocks in range(1, 9):
        (tree / f"d{blocks}").mkdir()
        for number in range(15 * blocks):
            (tree / f"d{blocks}" / f"{number:x>255}").touch()
    seal(tree, image, epoch=EPOCH)
    check(image)
    assert "Flags: 0x1000" in debugfs(image, "stat d8")
    assert debugfs(image, "stat d1/" + "x" * 254 + "7").startswith("Inode:")


@needs_e2fsprogs
def test_free_space_and_inodes_are_there_when_asked_for(tree: Path, image: Path) -> None:
    seal(tree, image, epoch=EPOCH, free=200 << 20)
    listing = debugfs(image, "show_super_stats -h")
    assert field(listing, "Free blocks") == str(200 << 8)
    assert int(field(listing, "Free inodes")) >= (200 << 20) // 16384
    check(image)


def test_progress_ends_at_the_size_of_all_files(tree: Path, image: Path) -> None:
    (tree / "small").write_bytes(b"x" * 1000)
    (tree / "large").write_bytes(b"x" * (3 << 20))
    calls: list[tuple[int, int]] = []
    seal(tree, image, epoch=EPOCH, on_progress=lambda done, total: calls.append((done, total)))
    total = 1000 + (3 << 20)
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_memory_does_not_grow_with_a_file(tree: Path, tmp_path: Path) -> None:
    peaks = []
    for size in (20, 200):
        (tree / "file").write_bytes(os.urandom(1 << 20) * size)
        code = (
            "from pathlib import Path; from singbuild.ext3.writer.seal import seal;"
            f"seal(Path({str(tree)!r}), Path({str(tmp_path / str(size))!r}), epoch=0);"
            "print(Path('/proc/self/status').read_text())"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        peaks.append(int(re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)[0]))
    assert peaks[1] - peaks[0] < 8_000


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree / "f").write_text("other"),
        lambda tree: (tree / "f").chmod(0o600),
        lambda tree: os.utime(tree / "f", (0, 1)),
        lambda tree: (tree / "f").rename(tree / "g"),
        lambda tree: os.link(tree / "f", tree / "g"),
        lambda tree: os.setxattr(tree / "f", "user.a", b""),
        lambda tree: tree.chmod(0o711),
        lambda tree: os.truncate(tree / "f", 0),
        lambda tree: ((tree / "l").unlink(), (tree / "l").symlink_to("there")),
    ],
    ids=["data", "mode", "time", "name", "link", "attribute", "root", "size", "target"],
)
def test_the_digest_notices_every_change(
    tree: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    (tree / "f").write_text("hello")
    (tree / "l").symlink_to("hello")
    first = seal(tree, tmp_path / "a", epoch=EPOCH)
    assert seal(tree, tmp_path / "b", epoch=EPOCH).digest == first.digest
    before = tree.stat().st_mtime_ns
    change(tree)
    os.utime(tree, ns=(before, before))
    changed = seal(tree, tmp_path / "c", epoch=EPOCH)
    assert (changed.digest, changed.uuid) != (first.digest, first.uuid)


def test_a_file_that_is_too_large_is_refused_by_name(tree: Path, image: Path) -> None:
    (tree / "huge").touch()
    try:
        os.truncate(tree / "huge", MAX_FILE_BYTES + 1)
    except OSError:
        pytest.skip("the file system under the tests holds no file that large")
    error = refused(tree, image)
    assert "/huge" in error.what
    assert "2 TiB" in error.why


def test_a_file_named_lost_and_found_is_refused(tree: Path, image: Path) -> None:
    (tree / "lost+found").touch()
    assert "/lost+found" in refused(tree, image).what


def test_a_file_that_changes_while_it_is_sealed_is_named(tree: Path, image: Path) -> None:
    (tree / "a").write_bytes(b"x" * (2 << 20))
    (tree / "log").write_text("one\n" * (1 << 19))  # a short one is read ahead

    def grow(done: int, total: int) -> None:
        with (tree / "log").open("a") as file:
            file.write("more\n")

    with pytest.raises(ImageError, match="/log"):
        seal(tree, image, epoch=EPOCH, on_progress=grow)
    assert not image.exists()


def test_a_target_that_holds_something_is_left_alone(tree: Path, image: Path) -> None:
    image.write_text("precious")
    with pytest.raises(ImageError, match="image"):
        seal(tree, image, epoch=EPOCH)
    assert image.read_text() == "precious"


def test_an_empty_target_is_filled(tree: Path, image: Path) -> None:
    image.touch(0o600)
    seal(tree, image, epoch=EPOCH)
    assert image.stat().st_mode & 0o777 == 0o755


def test_a_target_inside_the_tree_is_refused(tree: Path) -> None:
    refused(tree, tree / "image")


def test_interruption_leaves_nothing(tree: Path, image: Path) -> None:
    (tree / "a").write_bytes(b"x" * (2 << 20))

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seal(tree, image, epoch=EPOCH, on_progress=interrupt)
    assert not image.exists()


def children() -> set[int]:
    """This thread's: who reads short files for a seal is among them."""
    return {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()}


def many_short_files(tree: Path) -> None:
    for number in range(2000):
        (tree / f"short{number}").write_bytes(b"x" * 40_000)


def test_the_end_of_the_process_that_reads_ahead_is_told(tree: Path, image: Path) -> None:
    many_short_files(tree)
    before = children()

    def end(done: int, total: int) -> None:
        for child in children() - before:
            os.kill(child, signal.SIGKILL)

    with pytest.raises(HostError, match="reads the files"):
        seal(tree, image, epoch=EPOCH, on_progress=end)
    assert not image.exists()
    assert children() <= before


def test_what_the_process_that_reads_ahead_cannot_write_is_told(tree: Path, image: Path) -> None:
    """27 MiB take what the seal itself writes: journal, tables, and the first 512 files."""
    for number in range(640):
        (tree / f"{number:03}").write_bytes(b"x" * 40_000)
    code = (
        "import pathlib, resource, sys; from singbuild.errors import HostError\n"
        "from singbuild.ext3.writer.seal import seal\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (27 << 20, 27 << 20))\n"
        "try: seal(*map(pathlib.Path, sys.argv[1:]), epoch=1)\n"
        "except HostError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, tree, image], capture_output=True, text=True)
    assert done.stdout.startswith(f"cannot write {image}\n"), done.stderr
    assert "holds no file as large as this image" in done.stdout
    assert not image.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_process_that_reads_ahead_ends_with_the_seal(
    tree: Path, image: Path, number: signal.Signals
) -> None:
    many_short_files(tree)
    stands = (
        "import pathlib, sys, time; from singbuild.ext3.writer.seal import seal\n"
        "def stand(*_): print(flush=True); time.sleep(100)\n"
        "seal(*map(pathlib.Path, sys.argv[1:]), epoch=1, on_progress=stand)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", stands, tree, image],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as sealing:
        assert sealing.stdout
        sealing.stdout.readline()
        (child,) = Path(f"/proc/{sealing.pid}/task/{sealing.pid}/children").read_text().split()
        os.killpg(sealing.pid, number) if number == signal.SIGINT else sealing.kill()
    wait_until(lambda: not Path(f"/proc/{child}/root").exists())  # nor has a zombie one
    assert image.exists() == (number == signal.SIGKILL)


@pytest.mark.parametrize("epoch", [-1, 2**40])
def test_an_epoch_beyond_ext3_is_refused(tree: Path, image: Path, epoch: int) -> None:
    with pytest.raises(ImageError, match=str(epoch)):
        seal(tree, image, epoch=epoch)


@needs_e2fsprogs
@pytest.mark.parametrize("name", ["a", "hello", "x" * 31, "y" * 32, "z" * 33, "é" * 100, "w" * 255])
def test_names_are_hashed_as_e2fsprogs_hashes_them(tree: Path, image: Path, name: str) -> None:
    seal(tree, image, epoch=EPOCH)
    # 4: half MD4 of unsigned bytes
    seed = "01020304-0506-0708-090a-0b0c0d0e0f10"
    answer = debugfs(image, f"dx_hash -h 4 -s {seed} {name}")
    value = re.search(r"is (0x\w+)", answer)
    assert value, answer
    assert half_md4(os.fsencode(name), bytes(range(1, 17))) == int(value[1], 16)


@given(content=st.integers(0, 2**32), free=st.integers(0, 2**31), inodes=st.integers(11, 2**27))
def test_the_smallest_geometry_that_holds_everything(content: int, free: int, inodes: int) -> None:
    geometry = smallest_geometry(content, free, inodes)
    if geometry is None:
        assert content + free + inodes > 2**26
        return
    assert geometry.room() >= content + free + geometry.journal
    assert geometry.groups * geometry.inodes_per_group >= inodes
    assert geometry.inodes_per_group % 16 == 0
    assert geometry.inodes_per_group <= GROUP_BLOCKS
    last = geometry.groups - 1
    assert geometry.content_start(last) <= geometry.groups * GROUP_BLOCKS


@given(
    st.builds(
        Geometry, st.integers(1, 300), st.integers(1, 2048).map(lambda n: n * 16), st.just(1024)
    )
)
def test_room_is_what_the_groups_leave(geometry: Geometry) -> None:
    rooms = [(g + 1) * GROUP_BLOCKS - geometry.content_start(g) for g in range(geometry.groups)]
    assert geometry.room() == sum(rooms)


def test_paths_are_shown_on_one_line() -> None:
    assert shown(b"a b/\xff\n\x1b") == "/a b/\\xff\\n\\x1b"
