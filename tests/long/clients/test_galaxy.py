"""Galaxy: containers that its library resolves, and the job's command lines that it makes of them.

galaxy-tool-util is what finds the container and writes the line that a job's script executes; the
server that does so is in test_galaxy_server.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from singbuild_docker.reference import DOCKER

from tests.bench import docker_images, docker_registry
from tests.long.clients.site import Site, layer, site

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]

# Arguments: a resolver and its options as JSON, a container of a tool's XML, "" for a package.
JOB = """\
import json, os, subprocess, sys
from galaxy.tool_util.deps.container_classes import SingularityContainer
from galaxy.tool_util.deps.containers import ContainerFinder
from galaxy.tool_util.deps.dependencies import AppInfo, JobInfo, ToolInfo
from galaxy.tool_util.deps.requirements import ContainerDescription, ToolRequirement

resolver, image, options = json.loads(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
here = os.getcwd()
places = ("files", "data", "tool", "job/work", "job/outputs", "job/configs", "job/tmp", "job/home")
for place in places:
    os.makedirs(place, exist_ok=True)
app = AppInfo(
    galaxy_root_dir=here,
    default_file_path=f"{here}/files",
    tool_data_path=f"{here}/data",
    container_image_cache_path=f"{here}/images",
    container_resolvers_config_dict=[resolver],
)
tool = ToolInfo(
    [ContainerDescription(image, type="docker")] if image else [],
    [] if image else [ToolRequirement("tabtool", "package", "1.0")],
    tool_id="t",
    env_pass_through=["GALAXY_SLOTS", "HOME"],
    profile=24.0,
)
place = f"{here}/job"
job = JobInfo(
    f"{place}/work", f"{here}/tool", place, f"{place}/tmp", f"{place}/home", "galaxy"
)
destination = {"singularity_enabled": True, **options}
finder = ContainerFinder(app)
if "mulled" in resolver["type"]:
    images = f"{here}/images/singularity/mulled"
    name = "docker://quay.io/biocontainers/tabtool:1.0--0"
    pulled = SingularityContainer(name, app, tool, destination, job, None)
    subprocess.run(pulled.build_mulled_singularity_pull_command(images), check=True)
elif "cached" in resolver["type"]:
    finder.default_container_registry.resolve(["singularity"], tool, install=True)
container = finder.find_container(tool, destination, job)
open("job/tool_script.sh", "w").write('''
echo slots $GALAXY_SLOTS home $HOME here $(pwd) in $(. /etc/os-release; echo $ID) $FROM_IMAGE
echo one > out.txt; echo two > ../outputs/o; echo three > $HOME/h; echo four > /tmp/t
touch ../refused ../../tool/refused 2>/dev/null || echo read only
''')
environment = {**os.environ, "GALAXY_SLOTS": "3", "HOME": f"{here}/job/home", "FOO": "unwanted"}
line = container.containerize_command(f"/bin/sh {here}/job/tool_script.sh")
print(container.container_id, line, sep="\\n", file=sys.stderr)
sys.exit(subprocess.run(line, shell=True, env=environment, cwd="job/work").returncode)
"""


@pytest.fixture(scope="module")
def user() -> Iterator[Site]:
    with site("galaxy", "galaxy-tool-util[extended-metadata]", "planemo") as one:
        (one.place / "job.py").write_text(JOB)
        hub = (one.place / "registries.conf").read_text()
        quay = hub.replace(f'prefix = "{DOCKER}"', 'prefix = "quay.io"')
        (one.place / "registries.conf").write_text(hub + quay)
        config = {"Cmd": ["bash"], "Env": ["FROM_IMAGE=1"]}
        plain = docker_images.image(layer(), config=config)
        docker_registry.push(plain, one.registry, "biocontainers/tabtool", "1.0--0")
        yield one


@pytest.mark.parametrize(
    ("resolver", "image", "options"),
    [
        ('{"type": "explicit_singularity"}', "debian:stable-slim", "{}"),
        ('{"type": "cached_explicit_singularity"}', "debian:stable-slim", "{}"),
        ('{"type": "cached_mulled_singularity"}', "", "{}"),
        (
            '{"type": "explicit_singularity"}',
            "debian:12",
            '{"singularity_run_extra_arguments": "--userns --nv", "singularity_no_mount": null}',
        ),
    ],
)
def test_a_jobs_line(user: Site, resolver: str, image: str, options: str) -> None:
    done = user.call("python", "job.py", resolver, image, options)
    here = f"{user.place}/job"
    output = f"slots 3 home {here}/home here {here}/work in debian 1\nread only\n"
    assert (done.returncode, done.stdout) == (0, output), done.stderr
    files = [f"{here}/{name}" for name in ("work/out.txt", "outputs/o", "home/h", "tmp/t")]
    assert user.output("cat", *files) == "one\ntwo\nthree\nfour\n"
    assert "FOO" not in done.stdout
