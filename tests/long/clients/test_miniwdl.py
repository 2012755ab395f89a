"""miniwdl with container_backend=singularity, and its default options."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.long.clients.site import Site, site

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]

WORKFLOW = """\
version 1.0
task hello {
  input { File f }
  command <<< cat ~{f}; . /etc/os-release; echo in $ID; touch /tmp/x /var/tmp/y >>>
  output { String s = read_string(stdout()) }
  runtime { docker: "debian:stable-slim" memory: "256M" cpu: 1 }
}
workflow w { input { File f }
  call hello { input: f = f }
  output { String s = hello.s } }
"""


@pytest.fixture(scope="module")
def user() -> Iterator[Site]:
    with site("miniwdl", "miniwdl") as one:
        one.more["MINIWDL__SCHEDULER__CONTAINER_BACKEND"] = "singularity"
        (one.place / "w.wdl").write_text(WORKFLOW)
        (one.place / "in.txt").write_text("content\n")
        yield one


@pytest.mark.parametrize("options", [None, ["--containall", "--no-mount", "hostfs"]])
def test_a_workflow_runs(user: Site, options: list[str] | None) -> None:
    more = {"MINIWDL__SINGULARITY__RUN_OPTIONS": json.dumps(options)} if options else {}
    output = user.output("miniwdl", "run", "--dir", "runs", "w.wdl", "f=in.txt", env=more)
    assert json.loads(output)["outputs"]["w.s"] == "content\nin debian"
