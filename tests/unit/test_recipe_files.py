"""Recipes as files: line ends, encodings, endless ones, pipes, standard input."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from singbuild.errors import RecipeError
from singbuild.recipe.grammar import load
from tests.unit.test_recipe import HEAD, refused, write


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_mark(end: bytes, mark: bytes, tmp_path: Path) -> None:
    data = mark + end.join([b"Bootstrap: busybox", b"%post", b"\ttrue", b""])
    loaded = load(write(tmp_path, data))
    assert loaded.text == "Bootstrap: busybox\n%post\n\ttrue\n"
    assert loaded.bootstrap == "busybox"


def test_bad_bytes_are_located_in_characters(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbfA: \xc3\xa9\xff\n")
    with pytest.raises(RecipeError) as caught:
        load(path)
    assert (caught.value.line, caught.value.column) == (1, 5)


def test_utf16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="byte 0xff is not UTF-8 text"):
        load(write(tmp_path, "\ufeffBootstrap: x\n".encode("utf-16-le")))


def test_an_image_in_the_recipes_place_is_recognised(tmp_path: Path) -> None:
    data = bytearray(b"#!/usr/bin/env singrun\n").ljust(4096, b"\0")
    data[1080:1082] = b"\x53\xef"
    with pytest.raises(RecipeError, match="zero byte") as caught:
        load(write(tmp_path, bytes(data)))
    assert caught.value.remedy == "This is an image. The order is: singbuild RECIPE IMAGE."


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(RecipeError, match="zero byte"):
        load("/dev/zero")


def test_control_characters_do_not_reach_the_terminal() -> None:
    error = refused(HEAD + "\x1b[2J\u202e x\n")
    assert "\x1b" not in str(error)
    assert "\u202e" not in str(error)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "", "/dev/null/x"])
def test_impossible_paths(path: str) -> None:
    with pytest.raises(RecipeError):
        load(path)


def test_standard_input(tmp_path: Path) -> None:
    code = "from singbuild.recipe.grammar import load; r = load('-'); print(r.path, r.bootstrap)"
    done = subprocess.run(
        [sys.executable, "-c", code], input=HEAD, capture_output=True, text=True, check=True
    )
    assert done.stdout == "<stdin> busybox\n"


def test_closed_standard_input() -> None:
    code = "from singbuild.recipe.grammar import load; load('-')"
    script = f"'{sys.executable}' -c \"{code}\" <&-"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert "RecipeError: <stdin>: the file cannot be read" in done.stderr


def test_a_pipe_as_path(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(["sh", "-c", f"echo 'Bootstrap: x' > '{fifo}'"]):
        assert load(str(fifo)).bootstrap == "x"
