"""The pipelines in docs/ci.md: read as their services read them, and executed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.bench import singrun_images as images
from tests.bench.builds import User
from tests.bench.host import shared_directory
from tests.bench.singrun_images import ROOT

pytestmark = pytest.mark.root

DOCUMENT = (ROOT / "docs/ci.md").read_text()
BLOCKS = re.findall(r"^```(?:yaml|groovy)\n(.*?)^```", DOCUMENT, re.M | re.S)
RECIPE = """\
Bootstrap: busybox
%post
    wc -c < /run/secrets/token > /size
%test
    test -s /size
"""
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")


@dataclass(frozen=True)
class Pipeline:
    """What one service would do. cache, artifacts, report: what it keeps."""

    shell: tuple[str, ...]
    script: str
    env: dict[str, str]
    cache: str
    artifacts: set[str]
    report: str


def github(workspace: Path) -> Pipeline:
    """A job's build step; the step Install is the runner's, and needs the internet."""
    job = yaml.safe_load(BLOCKS[0])["jobs"]["image"]
    steps: list[dict[str, Any]] = job["steps"]
    build = next(step for step in steps if step.get("name") == "Build")
    assert [s["name"] for s in steps if "run" in s] == ["Install", "Build"]
    assert build["shell"] == "bash"
    used = {str(step["uses"]).partition("@")[0]: step["with"] for step in steps if "uses" in step}
    assert {*build["env"]} == {"TOOL_TOKEN"}
    return Pipeline(
        BASH,
        build["run"],
        {k: v.replace("${{ github.workspace }}", str(workspace)) for k, v in job["env"].items()},
        used["actions/cache"]["path"],
        {*used["actions/upload-artifact"]["path"].split()},
        "report.xml",
    )


def gitlab(workspace: Path) -> Pipeline:
    """A job's script; its before_script installs, and needs the internet."""
    job = yaml.safe_load(BLOCKS[1])["tool-image"]
    assert job["retry"]["exit_codes"] == [6]
    return Pipeline(
        BASH,
        "\n".join(job["script"]),
        {k: v.replace("$CI_PROJECT_DIR", str(workspace)) for k, v in job["variables"].items()},
        job["cache"]["paths"][0],
        {*job["artifacts"]["paths"]},
        job["artifacts"]["reports"]["junit"],
    )


def jenkins(workspace: Path) -> Pipeline:
    """The ``sh`` steps, with the environment block."""
    text = BLOCKS[2]
    assert text.count("{") == text.count("}")
    cache = re.search(r'SINGBUILD_CACHEDIR = "\$\{WORKSPACE\}/(.*?)"', text)
    stored = re.search(r"archiveArtifacts artifacts: '(.*?)'", text)
    report = re.search(r"junit '(.*?)'", text)
    assert cache
    assert stored
    assert report
    env = {"SINGBUILD_CACHEDIR": str(workspace / cache[1])}
    script = "\n".join(re.findall(r"^ *sh '(.*?)'$", text, re.M))
    artifacts = {*stored[1].split(", ")}
    return Pipeline(("sh", "-xec"), script, env, cache[1], artifacts, report[1])


@pytest.fixture(params=[github, gitlab, jenkins], ids=lambda each: each.__name__)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Pipeline, User]]:
    """A workspace with the recipe and its lock; GitHub's hosted runners are ordinary users."""
    with images.ordinary_user() as name, shared_directory() as directory:
        user = User(name if request.param is github else "root", directory)
        (directory / "tool.def").write_text(RECIPE)
        if user.start("lock", "tool.def").wait():
            pytest.skip("an ordinary user cannot read this checkout or its Python")
        yield request.param(directory), user


def execute(pipeline: Pipeline, user: User) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [*pipeline.shell, pipeline.script],
        cwd=user.directory,
        env={**user.env, **pipeline.env, "PATH": path, "TOOL_TOKEN": "sesame-open"},
        capture_output=True,
        text=True,
        user=user.uid,
        group=user.gid,
        extra_groups=[user.gid],
    )


def test_the_pipeline_builds_what_it_stores(place: tuple[Pipeline, User]) -> None:
    pipeline, user = place
    done = execute(pipeline, user)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in (*pipeline.artifacts, pipeline.report):
        assert (user.directory / name).stat().st_size
    events = (user.directory / "events.jsonl").read_text().splitlines()
    assert json.loads(events[-1])["event"] == "done"
    suite = ElementTree.parse(user.directory / pipeline.report).find("testsuite")
    assert suite is not None
    assert [case.get("name") for case in suite] == ["bootstrap", "%post", "%test"]
    assert pipeline.env["SINGBUILD_CACHEDIR"] == str(user.directory / pipeline.cache.strip("/"))
    assert [*(user.directory / pipeline.cache).iterdir()]


def test_the_pipeline_ends_with_singbuilds_status(place: tuple[Pipeline, User]) -> None:
    pipeline, user = place
    recipe = user.directory / "tool.def"
    recipe.write_text(RECIPE + "    false\n")
    drifted = execute(pipeline, user)
    assert drifted.returncode == 9
    assert user.start("lock", "tool.def").wait() == 0
    failed = execute(pipeline, user)
    assert failed.returncode == 7
    suite = ElementTree.parse(user.directory / pipeline.report).find("testsuite")
    assert suite is not None
    assert suite.get("failures") == "1"
    assert not (user.directory / "tool.img").exists()
