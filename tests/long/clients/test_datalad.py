"""datalad-container: an image of a hub in a dataset, a command in it, and the same again."""

from __future__ import annotations

import pytest

from tests.long.clients.site import site

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]

SCRIPT = """\
set -e
git config --global user.name ada
git config --global user.email ada@site.example
datalad create study
cd study
datalad containers-add deb --url docker://debian:stable-slim
datalad containers-run -n deb -m first --output out.txt \\
    'sh -c ". /etc/os-release; echo \\$ID > out.txt; ls -d .datalad"'
datalad rerun
"""


def test_a_command_in_a_datasets_container_and_again() -> None:
    with site("datalad", "datalad", "datalad-container", "git-annex") as user:
        output = user.output("sh", "-c", SCRIPT)
        assert output.count("\n.datalad\n") == 2
        study = user.place / "study"
        assert user.output("cat", study / "out.txt") == "debian\n"
        config = user.output("git", "-C", study, "config", "-f", ".datalad/config", "-l")
        assert "datalad.containers.deb.cmdexec=singularity exec {img} {cmd}" in config
        assert user.output("git", "-C", study, "status", "--porcelain") == ""
        user.output("chmod", "-R", "u+w", study)  # git-annex keeps its objects from being removed
