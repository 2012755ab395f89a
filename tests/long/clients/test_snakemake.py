"""snakemake --sdm apptainer: an image of a hub, a local image; by either command's name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.long.clients.site import Site, site

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]

RULE = """\
rule a:
    output: "{output}"
    container: "{image}"
    shell: "echo $(. /etc/os-release; echo $ID) > {{output}}"
"""


@pytest.fixture(scope="module")
def user() -> Iterator[Site]:
    with site("snakemake", "snakemake") as one:
        yield one


@pytest.mark.parametrize("kind", ["hub", "local"])
def test_a_rule_runs_in_its_container(user: Site, kind: str) -> None:
    image = "docker://debian:stable-slim"
    if kind == "local":
        user.output("singularity", "pull", "local.sif", image)
        image = "local.sif"
    output = f"{kind}.txt"
    (user.place / f"{kind}.smk").write_text(RULE.format(output=output, image=image))
    words = ("snakemake", "--cores", "1", "--sdm", "apptainer", "-s", f"{kind}.smk")
    more = ("--apptainer-prefix", "kept", "--apptainer-args", "--cleanenv -B /srv")
    user.output(*words, *more)
    assert (user.place / output).read_text() == "debian\n"
