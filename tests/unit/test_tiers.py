"""The tiers of the tests are what CONTRIBUTING.md says they are."""

from __future__ import annotations

import re
from fnmatch import fnmatch

import pytest

from tests.bench.singrun_images import ROOT

DOCUMENT = (ROOT / "CONTRIBUTING.md").read_text()
FILES = {path.stem: path.read_text() for path in (ROOT / "tests/long").glob("test_*.py")}


def test_every_long_file_is_named_with_its_reason() -> None:
    rows = re.findall(r"^\| (`long/.*?) \| (.+) \|$", DOCUMENT, re.MULTILINE)
    names = [name for files, _ in rows for name in re.findall(r"`long/(\w+)\.py`", files)]
    assert sorted(names) == sorted(FILES)


def test_what_lies_there_is_marked() -> None:
    assert [name for name, text in FILES.items() if "pytest.mark.long" not in text] == []


def test_pytest_looks_into_every_directory(request: pytest.FixtureRequest) -> None:
    passed_over = request.config.getini("norecursedirs")
    names = {part for path in (ROOT / "tests").rglob("test_*.py") for part in path.parts}
    assert [n for n in names for pattern in passed_over if fnmatch(n, pattern)] == []
