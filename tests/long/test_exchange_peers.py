"""Images by a registry to the real Apptainer, Podman and skopeo, and from them.

Slow: debootstrap makes the Debian sid that has Apptainer once (minutes).
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import random
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import container_engines, installation
from tests.bench import debian_hosts as hosts
from tests.bench.docker_registry import genuine
from tests.bench.host import shared_directory
from tests.bench.singrun_images import ROOT

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]


class Bench:
    """A registry, a directory that is /src for the peers, and images of ours in both."""

    def __init__(self, place: Path, registry: str) -> None:
        self.place, self.registry = place, registry
        shutil.copy(ROOT / "recipes/busybox.def", place / "hello.def")
        for ending in ("sif", "img", "sqsh"):
            self.ours("-q", "hello.def", f"hello.{ending}")
            self.ours("push", "-q", f"hello.{ending}", f"oras://{registry}/lab/{ending}:1")
        self.ours("push", "-q", "hello.img", f"docker://{registry}/lab/container:1")

    def ours(self, *words: str) -> str:
        argv = [f"{installation.programs()}/singbuild", *words]
        done = subprocess.run(argv, capture_output=True, text=True, cwd=self.place, check=False)
        assert done.returncode == 0, done
        return done.stdout

    def theirs(self, script: str) -> str:
        """What a script says in the peers' root, of an ordinary user who may write to /src/out."""
        out = self.place / "out"
        if not out.exists():
            out.mkdir()
            out.chmod(0o777)
        done = hosts.call(
            hosts.root("peers"), "sh", "-ec", script, source=self.place, user=hosts.USER,
            cwd="/src/out", R=self.registry,
        )  # fmt: skip
        assert done.returncode == 0, done
        return done.stdout


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    if not shutil.which("debootstrap") or not shutil.which("tar2sqfs"):
        pytest.skip("needs debootstrap and tar2sqfs")
    with shared_directory() as place, genuine(tmp_path_factory.mktemp("registry")) as registry:
        yield Bench(place, registry)


def test_apptainer_pulls_and_runs_a_sif_of_ours(bench: Bench) -> None:
    output = bench.theirs("apptainer -q pull --no-https a.sif oras://$R/lab/sif:1; ./a.sif ada")
    assert "Hello from" in output
    assert (bench.place / "out/a.sif").read_bytes() == (bench.place / "hello.sif").read_bytes()


def test_apptainer_pulls_and_runs_a_container_image_of_ours(bench: Bench) -> None:
    output = bench.theirs("apptainer -q pull --no-https b.sif docker://$R/lab/container:1; ./b.sif")
    assert "from b.sif, ada!" in output  # and no greeting: it keeps no %environment of such images


def test_what_apptainer_pushes_is_pulled_and_run(bench: Bench) -> None:
    bench.theirs(
        "apptainer -q pull --no-https c.sif docker://$R/lab/container:1;"
        "apptainer -q push --no-https --allow-unsigned c.sif oras://$R/theirs/tool:2"
    )
    bench.ours("pull", f"oras://{bench.registry}/theirs/tool:2", "theirs.sif")
    pulled = bench.place / "theirs.sif"
    assert pulled.read_bytes() == (bench.place / "out/c.sif").read_bytes()
    argv = [str(installation.programs() / "singrun"), "run", str(pulled)]
    assert "from theirs.sif" in subprocess.check_output(argv, text=True)
    argv[1:] = ["exec", f"oras://{bench.registry}/theirs/tool:2", "echo", "by its name"]
    assert subprocess.check_output(argv, text=True) == "by its name\n"


@pytest.fixture
def files(bench: Bench) -> Iterator[str]:
    """A server of plain files that answers as Singularity Hub and as a library; yields its host.

    At port 80, since shub:// names know none.
    """
    sif = (bench.place / "hello.sif").read_bytes()
    digest = hashlib.sha256(sif).hexdigest()
    host = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.80"
    hub = {"image": f"http://{host}/hello.sif", "name": "lab/hello", "tag": "1"}
    library = {"hash": f"sha256.{digest}", "size": len(sif), "arch": "amd64", "uploaded": True}
    with tempfile.TemporaryDirectory(prefix="files-", dir="/tmp") as site:
        for name, content in {
            "hello.sif": sif,
            "api/container/lab/hello:1": json.dumps(hub).encode(),
            "v1/images/lab/tools/hello:1": json.dumps({"data": library}).encode(),
            "v1/imagefile/lab/tools/hello:1": sif,
        }.items():
            (Path(site) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(site) / name).write_bytes(content)
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
        with http.server.ThreadingHTTPServer((host, 80), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield host
            server.shutdown()


@pytest.mark.parametrize(
    ("options", "uri"),
    [
        # When it starts, Apptainer 1.4.5 removes the directory for hubs from its cache, and then
        # cannot write there.
        ("--no-https --disable-cache", "shub://HOST/lab/hello:1"),
        ("--library http://HOST", "library://lab/tools/hello:1"),
    ],
)
def test_plain_files_are_a_hub_and_a_library_to_apptainer(
    bench: Bench, files: str, options: str, uri: str
) -> None:
    words = f"pull --force {options} f.sif {uri}".replace("HOST", files)
    output = bench.theirs(f"apptainer -q {words}; ./f.sif ada")
    assert "Hello from" in output
    assert (bench.place / "out/f.sif").read_bytes() == (bench.place / "hello.sif").read_bytes()


@pytest.mark.parametrize("ending", ["img", "sqsh"])
def test_every_kind_of_file_is_a_base(bench: Bench, ending: str) -> None:
    text = f"Bootstrap: oras\nFrom: {bench.registry}/lab/{ending}:1\n%post\n  echo more > /more\n"
    (bench.place / f"of-{ending}.def").write_text(text)
    bench.ours("-q", f"of-{ending}.def", f"of-{ending}.img")
    argv = [f"{installation.programs()}/singrun", "exec", f"{bench.place}/of-{ending}.img"]
    assert subprocess.check_output([*argv, "cat", "/more"], text=True) == "more\n"


def test_podman_and_skopeo_take_a_container_image_of_ours(bench: Bench, tmp_path: Path) -> None:
    name = f"{bench.registry}/lab/container:1"
    with (
        tempfile.TemporaryDirectory(prefix="e-", dir="/tmp") as where,
        container_engines.podman(Path(where)) as podman,
    ):
        podman("pull", "-q", "--tls-verify=false", name)
        assert "Hello from" in podman.runs(name)
    layout = f"oci:{tmp_path}/layout:1"
    argv = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", layout]
    subprocess.run(argv, check=True)
    bench.ours("pull", layout, "back.img")
    bench.ours("pull", f"docker://{name}", "again.img")
    words = [f"{installation.programs()}/singbuild", "diff", "--json", "back.img", "again.img"]
    compared = subprocess.run(words, cwd=bench.place, capture_output=True, text=True, check=False)
    files = {each["path"] for each in json.loads(compared.stdout)["files"]}
    assert [name for name in files if not name.startswith("/.singularity.d/")] == []  # its recipe
