"""``inspect`` and ``diff``, as a user types them, on images that nobody mounts."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singbuild.cli.main import commands
from singbuild.errors import ImageError, SingbuildError
from singbuild.ext3.writer.seal import seal
from singbuild.images.difference import differing_paths

EPOCH = 1_700_000_000
HEADER_2X = b"#!/usr/bin/env run-singularity\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make(root: Path) -> Path:
    home = root / ".singularity.d"
    write(home / "labels.json", '{"author": "Jane", "evil": "\\u001b[31m"}')
    write(home / "Singularity", "Bootstrap: debootstrap\n%runscript\n    echo hi\n")
    write(home / "lock.yaml", "version: 1\nbackend:\n  name: debootstrap\n  version: 0.1.0\n")
    write(home / "env/01-base.sh", "export PATH=/bin\n")
    write(home / "env/90-environment.sh", "export A=1")
    write(home / "runscript", "#!/bin/sh\necho hi\n")
    write(root / "etc/os-release", 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian 12"\n')
    status = "Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n"
    write(root / "var/lib/dpkg/status", status)
    write(root / "data/file", "data\n")
    (root / "data/link").symlink_to("file")
    (root / "data/hard").hardlink_to(root / "data/file")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "root")


@pytest.fixture
def image(root: Path, tmp_path: Path) -> Path:
    return seal(root, tmp_path / "a.img", epoch=EPOCH).path


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(commands, [str(word) for word in words], standalone_mode=False)


def output_of(*words: str | Path) -> str:
    result = call(*words)
    if result.exception:
        raise result.exception
    return result.output


def test_the_summary_tells_all_and_lets_no_label_reach_the_terminal(image: Path) -> None:
    text = output_of("inspect", image)
    for expected in ("singbuild image", "Debian 12", "debootstrap 0.1.0", "1 deb", "author: Jane"):
        assert expected in text
    assert "Without    build record, test, help text" in text
    assert f"{image} ARGUMENTS" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--labels", '{"author": "Jane", "evil": "\\u001b[31m"}'),
        ("--recipe", "Bootstrap: debootstrap\n%runscript\n    echo hi\n"),
        ("--lock", "version: 1\nbackend:\n  name: debootstrap\n  version: 0.1.0\n"),
        ("--runscript", "#!/bin/sh\necho hi\n"),
        (
            "--environment",
            "# /.singularity.d/env/01-base.sh\nexport PATH=/bin\n"
            "# /.singularity.d/env/90-environment.sh\nexport A=1\n",
        ),
    ],
)
def test_each_part_comes_as_it_is(image: Path, option: str, expected: str) -> None:
    assert output_of("inspect", option, image) == expected


@pytest.mark.parametrize(("option", "words"), [("--test", "no test"), ("--help-text", "no help")])
def test_what_is_missing_is_said_plainly(image: Path, option: str, words: str) -> None:
    with pytest.raises(SingbuildError, match=words):
        output_of("inspect", option, image)


def test_json_has_everything(image: Path) -> None:
    facts = json.loads(output_of("inspect", "--json", image))
    assert facts["labels"]["author"] == "Jane"
    assert facts["packages"][0]["purl"] == "pkg:deb/debian/a@1?arch=all&distro=debian-12"
    assert facts["size"] == image.stat().st_size
    assert facts["epoch"] == EPOCH
    assert facts["test"] is None
    assert json.loads(output_of("inspect", "--sbom", image))["spdxVersion"] == "SPDX-2.3"


def test_a_singularity_2_image_says_what_it_has(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "singularity", "#!/bin/sh\necho old\n")
    write(root / "environment", "export OLD=1\n")
    plain = seal(root, tmp_path / "plain", epoch=EPOCH).path
    old = tmp_path / "old.img"
    old.write_bytes(HEADER_2X + plain.read_bytes())
    assert "Singularity 2.x" in output_of("inspect", old)
    assert output_of("inspect", "--runscript", old) == "#!/bin/sh\necho old\n"
    assert output_of("inspect", "--environment", old) == "export OLD=1\n"
    with pytest.raises(SingbuildError, match=r"2\.x kept none"):
        output_of("inspect", "--lock", old)


@pytest.mark.parametrize("labels", ["[1]", "no json", "[" * 100_000, '{"a": {"b": 1}}'])
def test_labels_that_are_none_do_no_harm(root: Path, tmp_path: Path, labels: str) -> None:
    write(root / ".singularity.d/labels.json", labels)
    write(root / ".singularity.d/lock.yaml", "- [" * 2000)
    output_of("inspect", seal(root, tmp_path / "x.img", epoch=EPOCH).path)


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_file_that_is_no_image_ends_with_8_and_no_traceback(tmp_path: Path, command: str) -> None:
    (tmp_path / "x").write_text("hello")
    argv = [sys.executable, "-m", "singbuild", command, str(tmp_path / "x")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 8
    assert "is not an image" in done.stderr


def shown_changes(one: Path, other: Path, *options: str) -> list[str]:
    result = call("diff", one, other, *options)
    assert result.return_value in (0, 1), result.exception
    return result.output.splitlines()


def test_the_same_image_has_no_difference(image: Path) -> None:
    result = call("diff", image, image)
    assert (result.return_value, result.output) == (0, "no difference\n")


def chmod(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).chmod(0o600)


def relink(root: Path) -> None:
    (root / "data/link").unlink()
    (root / "data/link").symlink_to("else")


def split(root: Path) -> None:
    (root / "data/hard").unlink()
    write(root / "data/hard", "data\n")


def split_anew(root: Path) -> None:
    split(root)
    write(root / "data/hard", "other data\n")


def to_directory(root: Path) -> None:
    (root / "data/link").unlink()
    write(root / "data/link/inner/x", "x")


CHANGES: list[tuple[Callable[[Path], None], list[str]]] = [
    (lambda root: write(root / "data/new", ""), ["+ /data/new"]),
    (
        lambda root: (root / "etc/os-release").unlink(),
        ["- /etc/os-release"],
    ),
    (
        lambda root: write(root / "data/file", "DATA\n"),
        ["~ /data/file: content 5 bytes -> 5 bytes"],
    ),
    (chmod("data/file"), ["~ /data/file: mode 0644 -> 0600"]),
    (relink, ["~ /data/link: target file -> else"]),
    (split, ["~ /data/hard: hard link /data/file -> /data/hard"]),
    (  # what each inode holds is compared under its first name alone
        split_anew,
        ["~ /data/hard: hard link /data/file -> /data/hard"],
    ),
    (
        to_directory,
        [
            "~ /data/link: type symbolic link -> directory",
            "+ /data/link/inner",
            "+ /data/link/inner/x",
        ],
    ),
    (
        lambda root: os.setxattr(root / "data/file", "user.a", b"\1"),
        ["~ /data/file: attribute user.a none -> 01"],
    ),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES)
def test_each_change_is_named(
    root: Path, image: Path, tmp_path: Path, change: Callable[[Path], None], expected: list[str]
) -> None:
    (root / "data/file").chmod(0o644)
    image.unlink()
    seal(root, image, epoch=EPOCH)
    change(root)
    other = seal(root, tmp_path / "b.img", epoch=EPOCH).path
    lines = shown_changes(image, other)
    assert [line for line in lines if line[:2] in ("+ ", "- ", "~ ")] == expected
    again = [f"{change.shown}" for change in differing_paths(image, other)]
    assert {line.split(": ")[0][2:] for line in expected} <= set(again)


def test_packages_alone_and_as_json(root: Path, image: Path, tmp_path: Path) -> None:
    status = "Package: {}\nStatus: install ok installed\nVersion: {}\nArchitecture: all\n\n"
    write(root / "var/lib/dpkg/status", status.format("a", 2) + status.format("b", 1))
    other = seal(root, tmp_path / "b.img", epoch=EPOCH).path
    assert shown_changes(image, other, "--packages")[:2] == [
        "~ package a 1 -> 2 (deb)",
        "+ package b 1 (deb)",
    ]
    document = json.loads("\n".join(shown_changes(image, other, "--json")))
    assert document["same"] is False
    assert [change["name"] for change in document["packages"]] == ["a", "b"]
    assert [change["path"] for change in document["files"]] == ["/var/lib/dpkg/status"]


def test_times_count_when_asked(root: Path, image: Path, tmp_path: Path) -> None:
    os.utime(root / "data/file", (1, 1))
    other = seal(root, tmp_path / "b.img", epoch=EPOCH).path
    assert shown_changes(image, other) == ["no difference"]
    assert shown_changes(image, other, "--times")[0].startswith("~ /data/file: mtime ")


def test_holes_and_zeros_are_the_same_content(tmp_path: Path) -> None:
    for name, change in (("a", b""), ("b", b"x")):
        root = tmp_path / name
        root.mkdir()
        with (root / "sparse").open("wb") as file:
            file.seek(1 << 30)
            file.write(random.Random(1).randbytes(3 << 20))
            file.seek(5 << 30)
            file.write(b"end" + change)
            file.truncate(6 << 30)
    one, other = (seal(tmp_path / n, tmp_path / f"{n}.img", epoch=EPOCH).path for n in "ab")
    assert shown_changes(one, other)[0].startswith("~ /sparse: content")
    assert shown_changes(one, one) == ["no difference"]


@pytest.fixture(scope="module")
def good_and_bad(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An image, and a copy of it that may be damaged and is to be mended."""
    place = tmp_path_factory.mktemp("flips")
    good = seal(make(place / "root"), place / "good.img", epoch=EPOCH).path
    subprocess.run(["cp", "--sparse=always", good, place / "bad.img"], check=True)
    return good, place / "bad.img"


def flip(image: Path, flips: list[tuple[int, int]]) -> None:
    with image.open("r+b") as file:
        for offset, bit in flips:
            file.seek(offset)
            old = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([old ^ 1 << bit]))


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(flips=st.lists(st.tuples(st.integers(1024, 1 << 20), st.integers(0, 7)), max_size=6))
def test_flipped_bits_are_answered_or_refused_never_worse(
    good_and_bad: tuple[Path, Path], flips: list[tuple[int, int]]
) -> None:
    good, bad = good_and_bad
    flip(bad, flips)
    try:
        for words in (("inspect", bad), ("inspect", "--sbom", bad), ("diff", good, bad)):
            with suppress(ImageError, SingbuildError):
                output_of(*words)
    finally:
        flip(bad, flips)


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "--labels"],
        ["inspect", "--recipe"],
        ["--spelling=singularity", "inspect"],
        ["--spelling=singularity", "inspect", "--deffile"],
        ["--spelling=singularity", "run-help"],
        ["--spelling=singularity", "apps"],
    ],
)
def test_an_image_moves_no_cursor_of_a_terminal(root: Path, words: list[str]) -> None:
    evil = "\x1b]0;title\x07\x1b[2J\x9b31m evil"
    write(root / ".singularity.d/labels.json", json.dumps({evil: evil}, ensure_ascii=False))
    write(root / ".singularity.d/Singularity", f"Bootstrap: busybox\n# {evil}\n")
    write(root / ".singularity.d/runscript.help", evil)
    (root / f"scif/apps/{evil}/scif").mkdir(parents=True)
    master, slave = os.openpty()
    argv: list[str | Path] = [sys.executable, "-m", "singbuild", *words, root]
    subprocess.run(argv, stdout=slave, check=True)
    os.close(slave)
    output = os.read(master, 1 << 16).decode()
    os.close(master)
    assert "evil" in output
    assert not {"\x1b", "\x07", "\x9b"} & {*output}
