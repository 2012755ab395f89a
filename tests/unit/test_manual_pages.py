"""Man pages, which come of what the commands say of themselves."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from singbuild.cli import manpages
from singrun.verbs import manual


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("man")
    with pytest.MonkeyPatch.context() as patch:  # in this process, which asks for the same texts
        patch.setattr(sys, "argv", ["manpages", str(directory)])
        manpages.main()
    return directory


SECTIONS = (
    *("NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "OPTIONS", "EXIT STATUS", "ENVIRONMENT"),
    *("FILES", "EXAMPLES", "SEE ALSO"),
)


def shown(page: Path) -> str:
    """A page as man shows it; mandoc finds nothing wrong with it."""
    if not shutil.which("mandoc"):
        pytest.skip("mandoc is not installed")
    lint = ["mandoc", "-T", "lint", "-W", "warning", str(page)]
    done = subprocess.run(lint, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    text = subprocess.check_output(["mandoc", "-T", "utf8", page], text=True)
    return subprocess.check_output(["col", "-bx"], input=text, text=True)


@pytest.mark.parametrize("name", manpages.COMMANDS)
def test_a_page_is_well_formed_and_whole(name: str, pages: Path) -> None:
    plain = shown(pages / f"man1/{name}.1")
    for title in SECTIONS:
        assert re.search(rf"^{title}\n +\S", plain, re.M), title
    overview = manpages.output_of(name, "--help")
    verbs = manpages.verbs(overview)
    assert {"singrun": "exec", "singbuild": "backends"}.get(name, "create") in verbs
    for verb in verbs:
        for line in manpages.output_of(name, verb, "--help").splitlines():
            assert line.strip() in plain, (verb, line)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("singrun.conf", ["cache directory, cache size", "bind path", "%U"]),
        ("singbuild.conf", ["SETTINGS", "cache directory", "mirror NAME", "%U", "allow root"]),
        ("singbuild-recipe", ["HEADER", "%runscript", "Bootstrap: busybox"]),
    ],
)
def test_formats_have_pages(name: str, words: list[str], pages: Path) -> None:
    plain = shown(pages / f"man5/{name}.5")
    assert [word for word in words if word not in plain] == []
    assert "](" not in plain


def test_the_runtimes_page_has_every_verb() -> None:
    assert manpages.verbs(manual.overview()) == [*manual.VERBS]
