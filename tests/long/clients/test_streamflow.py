"""StreamFlow: a CWL step in an instance that it starts, asks for, and stops."""

from __future__ import annotations

import pytest

from tests.long.clients.site import site

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]

TOOL = """\
cwlVersion: v1.2
class: CommandLineTool
baseCommand: [sh]
inputs: {infile: {type: File, inputBinding: {position: 1}}}
stdout: out.txt
outputs: {out: {type: stdout}}
"""
WORKFLOW = """\
version: v1.0
workflows:
  one:
    type: cwl
    config: {file: tool.cwl, settings: job.yml}
    bindings: [{step: /, target: {deployment: box}}]
deployments:
  box:
    type: singularity
    config:
      {image: "docker://debian:stable-slim", cleanenv: true, contain: true, bind: [PLACE:/data]}
    workdir: /data/remote
"""


def test_a_step_in_an_instance() -> None:
    with site("streamflow", "streamflow==0.2.0rc3") as user:
        (user.place / "tool.cwl").write_text(TOOL)
        (user.place / "streamflow.yml").write_text(WORKFLOW.replace("PLACE", str(user.place)))
        (user.place / "job.yml").write_text("infile: {class: File, path: in.txt}\n")
        (user.place / "in.txt").write_text("echo in $(. /etc/os-release; echo $ID); pwd\n")
        (user.place / "remote").mkdir(mode=0o755)
        user.own(user.place / "remote")
        user.output("streamflow", "run", "streamflow.yml", "--outdir", "out")
        system, directory = (user.place / "out/out.txt").read_text().splitlines()
        assert system == "in debian"
        assert directory.startswith("/data/remote/")
        assert user.output("singularity", "instance", "list").count("\n") == 1
