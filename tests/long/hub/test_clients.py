"""A served site is a registry to Apptainer, shpc, DataLad, and a client of GA4GH's TRS."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import debian_hosts as hosts
from tests.bench.builds import SINGBUILD
from tests.bench.docker_registry import genuine
from tests.bench.host import shared_directory
from tests.host.hub.test_hub import BUSYBOX, Hub
from tests.long.clients.site import site as user_site
from tests.long.clients.site import venv

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]

FILES = {
    "Singularity": f"{BUSYBOX}%runscript\n  echo the newest\n",
    "Singularity.base": f"{BUSYBOX}%help\n  A base.\n%post\n  echo base > /etc/base\n",
    "child.def": "Bootstrap: localimage\nFrom: base.sif\n%runscript\n  cat /etc/base\n",
    "broken.def": f"{BUSYBOX}%post\n  false\n",
}
TRS = """
import json, sys
from trs_cli.client import TRSClient
client = TRSClient(uri=sys.argv[1])
service = client.get_service_info()
tools = client.get_tools()
tool = client.get_tool(id=sys.argv[2])
version = client.get_version(id=sys.argv[2], version_id=tool.versions[0].id)
recipe = client.get_containerfiles(id=sys.argv[2], version_id=version.id)
image = version.images[0]
print(json.dumps([service.type.version, len(tools), tool.name, recipe[0].content,
                  image.registry_host, image.image_name, image.checksum[0].checksum]))
"""
SHPC = """
import json, sys
import jsonschema
from shpc.main import schemas
from shpc.main.container.config import ContainerConfig
from shpc.main.registry.remote import GitLab

class Hub(GitLab):
    web_url = sys.argv[1] + "/library.json"

entry = Hub("https://gitlab.example/lab/hub").find("lab/tools/base")
config = ContainerConfig(entry)
config.set_tag(None)
print(json.dumps([str(config.name), config.get_pull_type(), config.get_uri(), config.tag.digest]))
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with genuine(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="module")
def hub(registry: str) -> Iterator[tuple[Hub, str]]:
    """A served hub, and its URL: at port 80, since shub:// names know none."""
    host = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.80"
    url = f"http://{host}"
    with shared_directory() as place:
        result = Hub(place)
        result.commit(FILES)
        key = place / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        status, output = result.build("site", *options(place, url, registry))
        assert status == 7, output
        assert "3 built, 0 as before, 1 failed (broken)" in output
        assert output.count("pushed to oras://") == 3, output
        words = result.command("serve", "--host", host, "--port", "80", str(place / "site"))
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert server.stdout
        assert server.stdout.readline()
        yield result, url
        server.terminate()
        server.wait()


def options(place: Path, url: str, registry: str) -> list[str]:
    return ["--url", url, "--key", str(place / "key"), "--push", f"oras://{registry}/hub"]


def image(hub: Hub, tag: str) -> Path:
    return hub.directory / "site/images" / f"{hub.collection('site')[tag]['key']}.sif"


@pytest.mark.parametrize(
    ("tag", "uri", "says"),
    [
        ("latest", "shub://HOST/lab/tools", "the newest\n"),
        ("child", "shub://HOST/lab/tools:child", "base\n"),
        ("child", "library://lab/tools/child:latest", "base\n"),
        ("child", "library://lab/tools/child", "base\n"),
        ("child", "http://HOST/images/KEY.sif", "base\n"),
    ],
)
def test_apptainer_pulls_by_every_protocol_and_runs(
    hub: tuple[Hub, str], tag: str, uri: str, says: str
) -> None:
    if not shutil.which("debootstrap"):
        pytest.skip("needs debootstrap")
    result, url = hub
    uri = uri.replace("HOST", url.removeprefix("http://")).replace("KEY", image(result, tag).stem)
    options = f"--library {url}" if uri.startswith("library") else "--no-https"
    out = result.directory / "out"
    out.mkdir(exist_ok=True)
    out.chmod(0o777)
    # Now and then Apptainer 1.4.5 does not find the directory of its own that it has just made.
    pull = f"apptainer -q pull --force {options} a.sif {uri}"
    script = f"mkdir -p ~/.apptainer/cache/shub; {pull}; ./a.sif"
    done = hosts.call(
        hosts.root("peers"), "sh", "-ec", script, source=result.directory, user=hosts.USER,
        cwd="/src/out",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, says), done
    assert (out / "a.sif").read_bytes() == image(result, tag).read_bytes()


def test_an_older_commit_is_pulled_by_its_id(hub: tuple[Hub, str], registry: str) -> None:
    result, url = hub
    before = result.git("rev-parse", "HEAD")
    old = image(result, "base").read_bytes()
    result.commit(
        {"Singularity.base": f"{BUSYBOX}%help\n  A base.\n%post\n  echo new > /etc/base\n"}
    )
    result.build("site", *options(result.directory, url, registry))
    assert image(result, "base").read_bytes() != old
    words = [
        *SINGBUILD,
        "pull",
        "-q",
        f"shub://{url.removeprefix('http://')}/lab/tools:base@{before}",
    ]
    subprocess.run([*words, str(result.directory / "old.sif")], check=True)
    assert (result.directory / "old.sif").read_bytes() == old


def test_a_client_of_trs_finds_every_answer_as_the_specification_has_it(
    hub: tuple[Hub, str],
) -> None:
    """trs-cli checks each answer against the schemas of TRS 2.0.1."""
    result, url = hub
    python = venv("trs", ["trs-cli", "pydantic<2"]) / "python"
    done = subprocess.run(
        [str(python), "-c", TRS, url, "lab~tools~base"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    version, count, name, recipe, host, path, checksum = json.loads(done.stdout)
    assert (version[:2], count, name) == ("2.", 3, "base")
    assert "Bootstrap: busybox" in recipe
    key = result.collection("site")["base"]["key"]
    assert f"{host}/{path}" == f"{url}/images/{key}.sif"
    record = json.loads((result.directory / f"site/records/{key}.json").read_text())
    assert checksum == record["image"]["sha256"]


def test_shpc_reads_the_library_and_installs_from_the_directory(
    hub: tuple[Hub, str], registry: str, tmp_path: Path
) -> None:
    result, url = hub
    programs = venv("shpc", ["singularity-hpc"])
    done = subprocess.run(
        [str(programs / "python"), "-c", SHPC, url], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    name, kind, uri, digest = json.loads(done.stdout)
    assert (name, kind, uri) == (f"{registry}/hub/lab/tools", "oras", f"{registry}/hub/lab/tools")
    words = [*SINGBUILD, "pull", "-q", f"oras://{uri}@{digest}", str(tmp_path / "pulled.sif")]
    subprocess.run(words, check=True)
    settings = tmp_path / "settings.yml"
    base = programs.parent / "lib"
    default = next(base.glob("python*/site-packages/shpc/settings.yml")).read_text()
    text = default.replace("registry: [", f"registry: [{result.directory}/site/shpc, ")
    assert text != default
    for place in ("modules", "containers"):
        text = text.replace(f"$root_dir/{place}", str(tmp_path / place))
    settings.write_text(text)
    words = [str(programs / "shpc"), "--settings-file", str(settings), "install", "lab/tools/child"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    installed = next((tmp_path / "containers").rglob("*.sif"))
    assert installed.read_bytes() == image(result, "child").read_bytes()


def test_datalad_adds_an_image_of_the_site_and_runs_it(hub: tuple[Hub, str]) -> None:
    result, url = hub
    script = f"""
set -e
git config --global user.name ada
git config --global user.email ada@site.example
git config --global annex.security.allowed-ip-addresses all
datalad create study
cd study
datalad containers-add tool --url {url}/images/{image(result, "child").name} \\
    --call-fmt 'singularity run {{img}} {{cmd}}'
datalad containers-run -n tool --output out.txt 'sh -c true > out.txt'
"""
    with user_site("datalad", "datalad", "datalad-container", "git-annex") as user:
        user.output("sh", "-c", script)
        assert user.output("cat", user.place / "study/out.txt") == "new\n"
        user.output("chmod", "-R", "u+w", user.place / "study")


def test_signatures_are_checked_and_a_false_one_is_told_of(hub: tuple[Hub, str]) -> None:
    result, _ = hub
    words = result.command("check", str(result.directory / "site"))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    page = (result.directory / "site/lab/tools/child/index.html").read_text()
    assert "SHA256:" in page
    signature = image(result, "child").with_suffix(".sif.sig")
    genuine_text = signature.read_text()
    signature.write_text(genuine_text.replace("date 2", "date 1"))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    signature.write_text(genuine_text)
    assert done.returncode == 8
    assert f"{signature.name} is no signature of its image" in done.stdout
