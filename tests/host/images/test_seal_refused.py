"""Trees and disks of which no image can be made: named, and nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from singbuild.errors import ImageError
from singbuild.ext3.writer.seal import seal
from tests.bench.seal_trees import EPOCH
from tests.host.images.test_seal_kernel import MEMORY, check, workplace

pytestmark = pytest.mark.root


def test_a_mount_left_in_the_tree_is_named(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a b").mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "none", str(tree / "a b")]
    code = (
        f"import subprocess; subprocess.run({mount!r}, check=True);"
        "from pathlib import Path; from singbuild.ext3.writer.seal import seal;"
        f"seal(Path('{tree}'), Path('{tmp_path}/image'), epoch=0)"
    )
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", code], capture_output=True, text=True
    )
    assert "something is still mounted on /a b" in done.stderr
    assert not (tmp_path / "image").exists()


@pytest.mark.parametrize("size", [2, 12], ids=["refused before", "noticed on the way"])
def test_a_full_disk_is_told_with_numbers_and_leaves_nothing(tmp_path: Path, size: int) -> None:
    """On 12 MiB the data fits, which is what can be known before; the directories do not."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "data").write_bytes(os.urandom(11 << 20 if size == 12 else 3 << 20))
    for number in range(2000 if size == 12 else 0):
        (tree / f"{number:0>250}").symlink_to("x" * 100)
    small = tmp_path / "small"
    small.mkdir()
    code = (
        "from pathlib import Path; from singbuild.ext3.writer.seal import seal\n"
        "from singbuild.errors import HostError\n"
        f"try: seal(Path('{tree}'), Path('{small}/image'), epoch=0)\n"
        "except HostError as error: print(error)\n"
        f"print(list(Path('{small}').iterdir()))"
    )
    script = f'mount -t tmpfs -o size={size}M none {small} && exec {sys.executable} -c "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"the file system on {small} is full:" in done.stdout
    assert "bytes needed" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_date_that_ext3_cannot_hold_is_named(tmp_path: Path, kind: str) -> None:
    with workplace(MEMORY) as place:
        (place / "tree").mkdir()
        old = place / "tree" / "old"
        old.mkdir() if kind == "directory" else old.touch()
        os.utime(old, (0, -(2**31) - 1))
        with pytest.raises(ImageError, match="/old") as caught:
            seal(place / "tree", place / "image", epoch=EPOCH)
        assert "1901" in caught.value.why
        assert not (place / "image").exists()


def test_attributes_that_fit_no_block_are_refused_by_name() -> None:
    with workplace(MEMORY) as place:
        (place / "tree").mkdir()
        (place / "tree" / "labelled").touch()
        os.setxattr(place / "tree" / "labelled", "trusted.a", b"x" * 4000)
        seal(place / "tree", place / "fits", epoch=EPOCH)
        check(place / "fits")
        os.setxattr(place / "tree" / "labelled", "trusted.b", b"x" * 200)
        with pytest.raises(ImageError, match="/labelled") as caught:
            seal(place / "tree", place / "image", epoch=EPOCH)
        assert "one block of 4096 bytes" in caught.value.why
        assert not (place / "image").exists()
