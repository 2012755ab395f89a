"""A job of each other program that calls singularity or apptainer, by its own lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.long.clients.site import site

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]

IMAGE = "docker://debian:stable-slim"
REFRAME = """\
import reframe as rfm
import reframe.utility.sanity as sn


@rfm.simple_test
class T(rfm.RunOnlyRegressionTest):
    platform = parameter(["Singularity", "Apptainer"])
    valid_systems = ["*"]
    valid_prog_environs = ["*"]

    @run_before("run")
    def c(self):
        self.container_platform = self.platform
        self.container_platform.image = "docker://debian:stable-slim"
        self.container_platform.mount_points = [("/srv", "/data/x")]
        self.container_platform.command = "bash -c 'cat /etc/os-release; ls /data'"

    @sanity_function
    def s(self):
        return sn.assert_found(r"ID=debian", self.stdout)
"""
SETTINGS = """\
platforms = [{"type": "Singularity"}, {"type": "Apptainer"}]
part = {"name": "p", "scheduler": "local", "launcher": "local", "environs": ["builtin"]}
part["container_platforms"] = platforms
system = {"name": "g", "hostnames": [".*"], "partitions": [part]}
site_configuration = {"systems": [system], "environments": [{"name": "builtin"}]}
"""
DESCRIPTOR = {
    "name": "cat tool",
    "description": "cats",
    "tool-version": "1",
    "schema-version": "0.5",
    "command-line": "cat [IN] > out.txt; echo $VAR >> out.txt",
    "container-image": {"type": "docker", "image": "debian:stable-slim", "index": "docker://"},
    "environment-variables": [{"name": "VAR", "value": "some value"}],
    "inputs": [{"id": "infile", "name": "in", "type": "File", "value-key": "[IN]"}],
    "output-files": [{"id": "o", "name": "o", "path-template": "out.txt"}],
}
CWL = """\
cwlVersion: v1.2
class: CommandLineTool
requirements: {DockerRequirement: {dockerPull: "debian:stable-slim"}}
baseCommand: [sh]
inputs: {infile: {type: File, inputBinding: {position: 1}}}
stdout: out.txt
outputs: {out: {type: stdout}}
"""
WDL = """\
version 1.0
task hello {
  input { File f }
  command <<< sh ~{f} >>>
  output { String s = read_string(stdout()) }
  runtime { docker: "debian:stable-slim" memory: "256M" cpu: 1 }
}
workflow w { input { File f }
  call hello { input: f = f }
  output { String s = hello.s } }
"""
SCRIPT = "echo in $(. /etc/os-release; echo $ID)\n"


def write(place: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (place / name).write_text(text)


def test_reframe() -> None:
    with site("reframe", "reframe-hpc") as user:
        write(user.place, {"t.py": REFRAME, "settings.py": SETTINGS})
        output = user.output("reframe", "-C", "settings.py", "-c", "t.py", "-r", "--nocolor")
        assert "Ran 2/2 test case(s)" in output


def test_boutiques() -> None:
    with site("boutiques", "boutiques", "setuptools<80") as user:
        write(user.place, {"d.json": json.dumps(DESCRIPTOR), "in.txt": "content\n"})
        write(user.place, {"i.json": json.dumps({"infile": "in.txt"})})
        words = ("bosh", "exec", "launch", "--skip-data-collection", "--force-singularity")
        user.output(*words, "--imagepath", user.place / "here.simg", "d.json", "i.json")
        assert (user.place / "out.txt").read_text() == "content\nsome value\n"
        assert (user.place / "here.simg").exists()


def test_toil_by_cwl_and_by_wdl() -> None:
    with site("toil", "toil[cwl,wdl]") as user:
        write(user.place, {"t.cwl": CWL, "t.wdl": WDL, "in.txt": SCRIPT})
        write(user.place, {"job.yml": "infile: {class: File, path: in.txt}\n"})
        write(user.place, {"w.json": '{"w.f": "in.txt"}'})
        words = ("--jobStore", user.place / "js1", "--outdir", "o1", "--clean", "always")
        user.output("toil-cwl-runner", "--singularity", *words, "t.cwl", "job.yml", seconds=1200)
        assert (user.place / "o1/out.txt").read_text() == "in debian\n"
        words = ("--jobStore", user.place / "js2", "-o", "o2", "--clean", "always")
        line = ("toil-wdl-runner", "t.wdl", "w.json", "--container", "singularity", *words)
        assert "in debian" in user.output(*line, seconds=1200)


def test_shpc_installs_a_wrapper() -> None:
    with site("shpc", "singularity-hpc", "setuptools<80") as user:
        # Without it skopeo fails where root's containers have closed /run/containers.
        own = {"REGISTRY_AUTH_FILE": f"{user.place}/none.json"}
        image = f"docker://{user.registry}/lab/plain:12"
        tags = json.loads(user.output("skopeo", "inspect", "--tls-verify=false", image, env=own))
        entry = user.place / "reg/lab/plain"
        entry.mkdir(parents=True)
        digest = tags["Digest"]
        (entry / "container.yaml").write_text(
            f"docker: {user.registry}/lab/plain\nurl: http://x\nmaintainer: '@t'\n"
            f"description: test\nlatest: {{'12': '{digest}'}}\ntags: {{'12': '{digest}'}}\n"
            "aliases: {deb-cat: /bin/cat}\n"
        )
        script = """
        here=$(python -c 'import os, shpc; print(os.path.dirname(shpc.__file__))')
        cp "$here/settings.yml" s.yml
        sed -i "s#^registry:.*#registry: [$PWD/reg]#; s#^module_base:.*#module_base: $PWD/mods#
            s#^container_base:.*#container_base: $PWD/conts#
            s#^wrapper_base:.*#wrapper_base: $PWD/wr#" s.yml
        shpc --settings-file "$PWD/s.yml" install lab/plain:12 &&
        "$(find wr -name deb-cat)" /etc/debian_version
        """
        assert user.output("sh", "-c", script).splitlines()[-1][0].isdigit()
        assert list((user.place / "conts").rglob("*.sif"))
