"""A launch's cgroup is its own: a plain directory stands for the one above it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from singrun.errors import RunError
from singrun.namespaces import limits


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cgroup.controllers").touch()
    monkeypatch.setattr(limits, "_HIERARCHIES", (str(tmp_path),))
    try:
        path = Path(limits._parent())
    except RunError as error:
        pytest.skip(error.why)
    path.mkdir(parents=True, exist_ok=True)
    return path


def test_one_that_is_about_to_be_entered_is_not_swept(parent: Path) -> None:
    def names() -> set[str]:
        return {path.name for path in parent.glob("singrun-*")}

    (parent / "singrun-7").mkdir()  # of a launch that was killed, and of another version
    first, second = limits.Cgroup({}), limits.Cgroup({})
    assert names() == {first._name, second._name}
    assert first._name != second._name
    os.close(first._fd)  # as the end of its process does
    third = limits.Cgroup({})
    assert names() == {second._name, third._name}
    for each in (second, third):
        each.remove()
    assert names() == set()
