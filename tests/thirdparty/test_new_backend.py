"""`singbuild new-backend`: what it writes installs, is listed and passes its own tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from singbuild.backends import scaffold
from singbuild.errors import HostError, UsageError
from tests.thirdparty.conftest import Elsewhere


@pytest.mark.root
@pytest.mark.network
@pytest.mark.xdist_group("elsewhere")
def test_the_generated_distribution_works_at_the_first_try(
    elsewhere: Elsewhere, tmp_path: Path
) -> None:
    output = elsewhere.run("singbuild", "new-backend", "my-site", cwd=tmp_path)
    assert output.startswith("singbuild-my-site\n")
    assert re.search(r"^Next: /\S+/bin/python -m pip install -e 'singbuild-my-site", output, re.M)
    project = tmp_path / "singbuild-my-site"
    elsewhere.install(elsewhere.wheel(project), options=["--no-deps"])
    listed = elsewhere.run("singbuild", "backends")
    assert re.search(r"^my-site .*\n +from singbuild-my-site 0\.1\.0$", listed, re.M)
    output = elsewhere.run("pytest", "-q", "-p", "no:cacheprovider", cwd=project)
    assert "failed" not in output
    assert "skipped" not in output
    again = elsewhere.run("singbuild", "new-backend", "my-site", "x", cwd=tmp_path, status=2)
    assert "taken by singbuild-my-site 0.1.0" in again


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
