"""What hides a secret, and what finds it."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singbuild.errors import SectionError
from singbuild.tree import secrets
from singbuild.tree.secrets import Secret

VALUE = b"correct horse battery"
SECRET = (Secret("token", VALUE + b"\n"),)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree/opt").mkdir(parents=True)
    return tmp_path / "tree"


def path_of_secret(tree: Path) -> str:
    with pytest.raises(SectionError) as caught:
        secrets.check_absent(tree, SECRET)
    return caught.value.what


@pytest.mark.parametrize("at", [0, 1, (1 << 20) - 5, (1 << 20) - len(VALUE), (3 << 20) - 1])
def test_it_is_found_wherever_a_file_holds_it(tree: Path, at: int) -> None:
    file = tree / "opt/file"
    file.write_bytes(os.urandom(at) + VALUE + os.urandom(1 << 20))
    assert path_of_secret(tree) == "the secret 'token' is in the image: /opt/file"


def test_behind_a_hole(tree: Path) -> None:
    with (tree / "opt/file").open("wb") as file:
        file.truncate(1 << 32)
        file.seek((1 << 31) + 4000)
        file.write(VALUE)
    assert "/opt/file" in path_of_secret(tree)


def test_in_an_attribute_a_name_and_a_link(tree: Path) -> None:
    secrets.check_absent(tree, SECRET)
    os.setxattr(tree / "opt", "user.note", b"x" + VALUE)
    assert "/opt" in path_of_secret(tree)
    os.removexattr(tree / "opt", "user.note")
    (tree / "link").symlink_to(VALUE.decode())
    assert "/link" in path_of_secret(tree)
    (tree / "link").unlink()
    (tree / f"a {VALUE.decode()}").touch()
    assert "/a correct" in path_of_secret(tree)


def test_in_a_further_name_of_a_file_and_the_name_of_an_attribute(tree: Path) -> None:
    (tree / "a").touch()
    (tree / f"opt/{VALUE.decode()}").hardlink_to(tree / "a")
    assert "/opt/correct" in path_of_secret(tree)
    (tree / f"opt/{VALUE.decode()}").unlink()
    os.setxattr(tree / "a", f"user.{VALUE.decode()}", b"")
    assert "/a" in path_of_secret(tree)


def test_a_short_one_is_not_looked_for(tree: Path) -> None:
    (tree / "file").write_text("1234567")
    secrets.check_absent(tree, (Secret("pin", b"1234567"),))


@given(
    value=st.binary(min_size=8, max_size=40).filter(lambda v: len(v.rstrip(b"\r\n")) >= 8),
    before=st.binary(max_size=9),
    after=st.binary(max_size=9),
    encode=st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]),
)
def test_base64_is_found_whatever_is_encoded_with_it(
    value: bytes, before: bytes, after: bytes, encode: object
) -> None:
    assert callable(encode)
    text = encode(before + value + after)
    needles = [*secrets._encoded(Secret("token", value))]
    assert any(needle in text for needle in needles)
    assert min(map(len, needles)) >= 8


def test_a_private_key_is_hidden_line_by_line() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\nab\n-----END KEY-----\n"
    hide = secrets.masked((Secret("key", key.encode()),))
    assert [hide(line) for line in key.splitlines()] == ["***", "***", "ab", "***"]
    assert hide(f"before {key.strip()} after") == "before *** after"


def test_quoted_as_shells_trace_it() -> None:
    hide = secrets.masked((Secret("token", b"it's so"),))
    traced = """+ echo 'it'"'"'s so' 'it'\\''s so' it's so"""
    assert hide(traced) == "+ echo '***' '***' ***"
    assert "it" not in repr(Secret("token", b"it's so"))
