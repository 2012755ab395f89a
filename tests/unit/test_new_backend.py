"""What `singbuild new-backend` refuses to write; what it writes is tested by tests/thirdparty."""

from __future__ import annotations

from pathlib import Path

import pytest

from singbuild.backends import scaffold
from singbuild.errors import HostError, UsageError


@pytest.mark.parametrize("name", ["", "Upper", "-x", "a--b", "a_b", "../a", "a b", "ä"])
def test_a_name_that_cannot_be_one_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be a backend's name"):
        scaffold.new_backend(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_built_ins_name_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'busybox' is taken by singbuild"):
        scaffold.new_backend("busybox", tmp_path / "new")


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        scaffold.new_backend("mine", tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="cannot be written"):
        scaffold.new_backend("mine", tmp_path / "file" / "new")
