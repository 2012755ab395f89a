"""cwltool --singularity: jobs, and its own tests of Singularity."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.long.clients.site import Site, site

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]

FILES = ("singularity", "singularity_versions", "iwdr", "tmpdir", "environment", "secrets")
TOOL = """\
cwlVersion: v1.2
class: CommandLineTool
requirements:
  DockerRequirement: %s
  EnvVarRequirement: {envDef: {GREETING: "hello world"}}
baseCommand: [sh]
inputs: {infile: {type: File, inputBinding: {position: 1}}}
stdout: out.txt
outputs: {out: {type: stdout}}
"""
SCRIPT = """\
echo "$GREETING in $(. /etc/os-release; echo $ID)"; touch $TMPDIR/x $HOME/y
echo interfaces: $(tail -n +3 /proc/net/dev | wc -l)
"""


@pytest.fixture(scope="module")
def user() -> Iterator[Site]:
    needs = ("pytest", "pytest-httpserver", "pytest-retry", "arcp", "mock")  # of its tests
    with site("cwltool", "cwltool", *needs) as one:
        (one.place / "in.txt").write_text(SCRIPT)
        (one.place / "job.yml").write_text("infile: {class: File, path: in.txt}\n")
        yield one


@pytest.mark.parametrize("name", ["singularity", "apptainer"])
@pytest.mark.parametrize(
    "requirement",
    ['{dockerPull: "debian:stable-slim"}', '{dockerLoad: "saved.tar", dockerImageId: saved}'],
)
def test_a_job_runs_in_the_image_without_a_network(user: Site, name: str, requirement: str) -> None:
    if "dockerLoad" in requirement and not (user.place / "saved.tar").exists():
        user.output("singbuild", "pull", "docker://debian:stable-slim", "saved.img")
        words = ("export", "--format", "docker-archive", "--name", "saved:1", "-f", "saved.tar")
        user.output("singbuild", *words, "saved.img")
    (user.place / "tool.cwl").write_text(TOOL % requirement)
    hidden = user.place / f"only-{name}"
    if not hidden.exists():
        hidden.mkdir()
        (hidden / "singularity").symlink_to(user.output("sh", "-c", f"command -v {name}").strip())
    out = user.place / f"out-{name}"
    path = f"{hidden}:{user.programs}:/usr/bin:/bin"
    user.output(
        "cwltool", "--singularity", "--outdir", out, "tool.cwl", "job.yml", env={"PATH": path}
    )
    output = (out / "out.txt").read_text()
    assert "hello world in debian" in output
    assert "interfaces: 1\n" in output


def test_its_own_tests_of_singularity(user: Site) -> None:
    """Those of its files that name Singularity; the others never call it."""
    files = [f"cwltool.tests.test_{name}" for name in FILES]
    words = ("python", "-m", "pytest", "--pyargs", *files, "-k", "ingularity", "-q")
    done = user.call(*words, "-p", "no:cacheprovider", "--tb=short", seconds=1800)
    output = done.stdout[-6000:]
    passed = re.search(r"(\d+) passed", output)
    assert passed, output + done.stderr[-2000:]
    assert int(passed[1]) >= 24
    assert " failed" not in output, output
    assert " error" not in output.splitlines()[-1], output
