"""spython: its own tests, but for what needs the library of Sylabs or another hub's oras://."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.long.clients.site import Site, site

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]


@pytest.fixture(scope="module")
def user() -> Iterator[Site]:
    with site("spython", "spython", "pytest") as one:
        yield one


def test_its_own_tests(user: Site) -> None:
    words = ("python", "-m", "pytest", "--pyargs", "spython.tests", "-k", "not oras", "-q")
    done = user.call(*words, "-p", "no:cacheprovider", "--basetemp", user.place / "pytest")
    last = done.stdout.splitlines()[-1]
    assert re.match(r"\d+ passed", last), done.stdout[-6000:]
    assert "failed" not in last


def test_recipes_that_it_makes_of_dockerfiles_are_understood(user: Site) -> None:
    script = """
    cd $(python -c 'import os, spython; print(os.path.dirname(spython.__file__))')/tests
    for each in testdata/docker2singularity/*.def; do
        singbuild plan "$each" >/dev/null || echo "$each"
    done
    """
    done = user.call("sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
