"""`singbuild new-backend`: what it writes installs, is listed and passes its own tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
