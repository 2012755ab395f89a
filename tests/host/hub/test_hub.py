"""A hub builds a repository of several kinds of recipes, commit by commit, and shows them."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.bench.builds import SINGBUILD
from tests.bench.host import PATIENCE, wait_until

pytestmark = pytest.mark.root

BUSYBOX = "Bootstrap: busybox\n"
FILES = {
    "Singularity": f"{BUSYBOX}%labels\n  Purpose first\n%runscript\n  echo first\n",
    "Singularity.base": f"{BUSYBOX}%post\n  echo base > /etc/base\n",
    "Singularity.child": "Bootstrap: localimage\nFrom: base.sif\n%runscript\n  cat /etc/base\n",
    "tools/copy.def": f"{BUSYBOX}%files\n  data.txt /data.txt\n%help\n  Prints data.\n",
    "tools/data.txt": "one\n",
    "broken.def": f"{BUSYBOX}%post\n  echo before; false\n",
    "Dockerfile": "FROM scratch AS one\nCOPY tools/data.txt /data\n"
    "FROM scratch\nCOPY --from=one /data /d\n",
    "stages.def": f"{BUSYBOX}Stage: one\n%post\n  echo 1 > /one\n\n"
    f"{BUSYBOX}%files from one\n  /one /two\n",
    "app.def": f"{BUSYBOX}%apprun hello\n  echo hello from an app\n",
}
BUILT = {"base", "child", "copy", "latest-docker", "app", "latest", "stages"}


class Hub:
    """A repository and its sites. count: of builds, by what the hub says."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.repository = directory / "lab" / "tools"
        self.repository.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        self.minute = 0

    def git(self, *words: str) -> str:
        names = {
            "NAME": "Ada",
            "EMAIL": "a@b",
            "DATE": f"2026-01-02T03:{getattr(self, 'minute', 0):02}:00Z",
        }
        more = {
            f"GIT_{who}_{key}": value
            for who in ("AUTHOR", "COMMITTER")
            for key, value in names.items()
        }
        argv = ["git", "-C", str(self.repository), *words]
        return subprocess.run(
            argv, env=os.environ | more, check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(self, files: dict[str, str]) -> str:
        self.minute += 1
        for name, text in files.items():
            path = self.repository / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", f"change {self.minute}")
        return self.git("rev-parse", "HEAD")

    def command(self, *words: str) -> list[str]:
        return [*SINGBUILD, "hub", *words]

    def build(self, site: str, *options: str, cache: str = "") -> tuple[int, str]:
        more = {"SINGBUILD_HEARTBEAT": "0.3"}
        more |= {"SINGBUILD_CACHEDIR": str(self.directory / cache)} if cache else {}
        done = subprocess.run(
            self.command("build", *options, str(self.repository), str(self.directory / site)),
            env=os.environ | more,
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr

    def collection(self, site: str) -> dict[str, dict[str, str]]:
        """Return the newest commit's builds by tag."""
        text = (self.directory / site / "lab/tools/collection.json").read_text()
        outcome: dict[str, dict[str, str]] = json.loads(text)["commits"][-1]["builds"]
        return outcome


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    """A hub whose first commit is built."""
    result = Hub(tmp_path_factory.mktemp("hub"))
    result.commit(FILES)
    status, output = result.build("site", "--jobs", "3", "--url", "https://hub.invalid")
    assert re.search(r"^\w+: \w+, \d+ s so far$", output, re.M)
    assert status == 7, output
    assert "7 built, 0 as before, 1 failed (broken)" in output
    assert "broken: failed with status 7\n    broken.def:" in output
    return result


def tags(hub: Hub, site: str = "site") -> dict[str, str]:
    return {tag: build["status"] for tag, build in hub.collection(site).items()}


@pytest.mark.slow("eight images are built")
def test_every_kind_of_recipe_has_its_image_and_page(hub: Hub) -> None:
    site = hub.directory / "site"
    assert tags(hub) == dict.fromkeys(BUILT, "built") | {"broken": "failed"}
    images = {
        tag: site / "images" / f"{build['key']}.sif"
        for tag, build in hub.collection("site").items()
    }
    singrun = [sys.executable, "-m", "singrun"]
    done = subprocess.run([*singrun, "run", images["child"]], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "base\n"), done.stderr
    page = (site / "lab/tools/broken/index.html").read_text()
    assert "status 7" in page
    assert "before" in (site / "lab/tools/broken/log.html").read_text()
    assert "hello" in (site / "lab/tools/app/index.html").read_text()
    checked = subprocess.run(hub.command("check", str(site)), capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow("images are built after each of several commits")
def test_each_commit_builds_what_it_changed_and_no_more(hub: Hub) -> None:
    for files, built in (
        ({"README": "text"}, 0),
        ({"tools/data.txt": "two\n"}, 2),
        ({"Singularity.base": f"{BUSYBOX}%post\n  echo new > /etc/base\n"}, 2),
    ):
        hub.commit(files)
        _, output = hub.build("site")
        assert f"{built} built" in output, output
    site = hub.directory / "site"
    history = (site / "lab/tools/copy/history.html").read_text()
    assert "/data.txt" in history
    page = (site / "lab/tools/base/index.html").read_text()
    assert "+  echo new &gt; /etc/base" in page
    words = hub.command("compare", "--json", str(site), "lab/tools:base", "lab/tools:child")
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert "/.singularity.d/runscript" in json.loads(done.stdout)["added"]


@pytest.mark.slow("the same images once more")
def test_two_machines_make_the_same_site_but_for_logs(hub: Hub) -> None:
    """By jobs of a command here, and joined from two directories there; each with its own cache."""
    before = hub.directory / "other"
    options = [
        "--url",
        "https://hub.invalid",
        "--at",
        hub.git("rev-list", "--max-parents=0", "HEAD"),
    ]
    hub.build(
        "one",
        *options,
        "--jobs",
        "2",
        "--submit",
        "sh -c {}",
        "--only",
        "[b-dl]*",
        cache="cache-one",
    )
    for number, pattern in enumerate(("[b-d]*", "l*")):
        for tag in json.loads(
            hub.build("none", *options, "--plan", "github", "--only", pattern)[1]
        )["include"]:
            words = [*options[2:], str(hub.repository), tag["tag"], f"{before}-{number}"]
            more = {"SINGBUILD_CACHEDIR": str(hub.directory / "cache-two")}
            subprocess.run(hub.command("image", *words), env=os.environ | more, capture_output=True)
    words = [
        *options,
        str(hub.repository),
        str(hub.directory / "two"),
        f"{before}-0",
        f"{before}-1",
    ]
    done = subprocess.run(hub.command("collect", *words), capture_output=True, text=True)
    assert "5 of 8 images are there" in done.stdout, done.stderr
    one, two = (
        {p.relative_to(top): p for p in top.rglob("*") if p.is_file()}
        for top in (hub.directory / "one", hub.directory / "two")
    )
    differing = {
        name
        for name in one.keys() | two.keys()
        if name not in one
        or name not in two
        or not filecmp.cmp(one[name], two[name], shallow=False)
    }
    logs = {name for name in differing if name.parts[0] == "runs" or name.name == "log.html"}
    assert differing == logs


def sleeping(hub: Hub) -> list[str]:
    """What runs of a build of the sleeper."""
    outcome = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = entry.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if str(hub.directory / "killed") in text or "singbuild build --json --format sif" in text:
            outcome.append(text)
    return outcome


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.slow("a build is killed on the way, and made again")
def test_a_killed_hub_leaves_nothing_half_and_goes_on(hub: Hub, number: int) -> None:
    hub.commit({"sleeper.def": f"{BUSYBOX}%post\n  echo {number} > /n; touch /began; sleep 4\n"})
    words = hub.command(
        "build", "--only", "sleeper", str(hub.repository), str(hub.directory / "killed")
    )
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert "building sleeper.def" in process.stdout.readline()
    time.sleep(1 * PATIENCE)
    process.send_signal(number)
    process.communicate()
    wait_until(lambda: not sleeping(hub), 20)
    site = hub.directory / "killed"
    assert [p for p in site.rglob("*") if p.name.endswith(".part")] == []
    status, output = hub.build("killed", "--only", "sleeper")
    assert status == 0, output
    assert [*site.glob("images/*.sif")]


@pytest.fixture
def served(hub: Hub) -> Iterator[Callable[[str], tuple[int, bytes]]]:
    """Serve the site; return what gets a path of it."""
    words = hub.command("serve", "--port", "0", str(hub.directory / "site"))
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    url = process.stdout.readline().strip()

    def get(path: str, **headers: str) -> tuple[int, bytes]:
        with urlopen(Request(url + path, headers=headers)) as answer:
            return answer.status, answer.read()

    yield get
    process.terminate()
    process.wait()


def test_clients_of_other_registries_find_their_files(
    hub: Hub, served: Callable[..., tuple[int, bytes]]
) -> None:
    key = hub.collection("site")["base"]["key"]
    shub = json.loads(served("api/container/lab/tools:base")[1])
    assert shub["image"] == f"https://hub.invalid/images/{key}.sif"
    answer = json.loads(served("v1/images/lab/tools/base:latest?arch=amd64")[1])["data"]
    image = served("v1/imagefile/lab/tools/base:latest?arch=amd64")[1]
    assert (len(image), image) == (
        answer["size"],
        (hub.directory / f"site/images/{key}.sif").read_bytes(),
    )
    assert served(f"images/{key}.sif", Range="bytes=0-9") == (206, image[:10])
    tools = json.loads(served("ga4gh/trs/v2/tools")[1])
    assert "lab~tools~base" in {tool["id"] for tool in tools}
    version = json.loads(served("ga4gh/trs/v2/tools/lab%7Etools%7Ebase")[1])["versions"][0]
    containerfile = served(
        f"ga4gh/trs/v2/tools/lab~tools~base/versions/{version['id']}/containerfile"
    )
    assert "Bootstrap: busybox" in json.loads(containerfile[1])[0]["content"]


def test_a_command_that_starts_nothing_is_told_of(hub: Hub) -> None:
    status, output = hub.build("wrong", "--submit", "srun")
    assert status == 2
    assert shlex.quote("{}").strip("'") in output


def test_a_host_that_can_build_no_image_is_told_of_once(hub: Hub, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for place in ("/usr/sbin", "/usr/bin"):
        for each in Path(place).iterdir():
            if each.name != "tar2sqfs" and not (programs / each.name).is_symlink():
                (programs / each.name).symlink_to(each)
    words = hub.command("build", str(hub.repository), str(hub.directory / "unable"))
    done = subprocess.run(
        words, env=os.environ | {"PATH": str(programs)}, capture_output=True, text=True
    )
    assert done.returncode == 5
    assert done.stderr.count("this host lacks tar2sqfs") == 1
    assert "squashfs-tools-ng" in done.stderr
    assert not (hub.directory / "unable/records").exists()


@pytest.mark.slow("images are built")
def test_an_older_build_keeps_its_pages_until_prune_takes_its_image(hub: Hub) -> None:
    first = hub.commit({"aged.def": f"{BUSYBOX}%post\n  echo 1 > /one\n"})
    hub.build("aged", "--only", "aged", "--url", "https://hub.invalid")
    hub.commit({"aged.def": f"{BUSYBOX}%post\n  echo 2 > /two\n"})
    hub.build("aged", "--only", "aged")
    site = hub.directory / "aged"
    pages = site / "lab/tools/aged"
    older = pages / first[:12]
    assert "An older build" in (older / "index.html").read_text()
    assert ".sif" in (older / "index.html").read_text()
    assert "one</span>" in (older / "files/index.html").read_text()
    assert f"{first[:12]}/index.html" in (pages / "history.html").read_text()
    subprocess.run(hub.command("prune", str(site)), check=True, capture_output=True)
    assert "not kept any more" in (older / "index.html").read_text()
    names = {path.name for path in (site / "api/container/lab").iterdir()}
    assert not {name for name in names if first in name}
    checked = subprocess.run(hub.command("check", str(site)), capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow("an image is built twice")
def test_a_page_says_what_went_in_and_who_signed_and_rebuilt_it(hub: Hub) -> None:
    """The image has a package database, and its second signer has built it again."""
    rows = "Package: {}\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n"
    hub.commit(
        {
            "known/status": "".join(rows.format(name) for name in ("one", "two")),
            "known/copyright": "Format: https://www.debian.org/doc/packaging-manuals/"
            "copyright-format/1.0/\n\nFiles: *\nCopyright: Ada\nLicense: Expat\n",
            "known/known.def": f"{BUSYBOX}%files\n  status /var/lib/dpkg/status\n"
            "  copyright /usr/share/doc/one/copyright\n",
        }
    )
    for name in ("ada", "bob"):
        place = str(hub.directory / name)
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place]
        subprocess.run(words, check=True)
    fingerprints = [
        subprocess.check_output(
            ["ssh-keygen", "-l", "-f", hub.directory / f"{name}.pub"], text=True
        ).split()[1]
        for name in ("ada", "bob")
    ]
    options = ("--only", "known", "--key", str(hub.directory / "ada"))
    status, output = hub.build("known", *options)
    assert status == 0, output
    site = hub.directory / "known"
    key = hub.collection("known")["known"]["key"]
    image = site / f"images/{key}.sif"
    page = site / "lab/tools/known/index.html"
    text = page.read_text()
    assert "Licences of packages" in text
    assert "MIT (1)" in text
    assert f"<dt>Signed by</dt><dd><code>{fingerprints[0]}</code>" in text
    assert "Built again" not in text
    assert f"records/{key}.provenance.json" in text
    statement = json.loads((site / f"records/{key}.provenance.json").read_text())
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    names = {
        row["name"] for row in statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    }
    assert {"recipe known.def", "one", "two", "%files status"} <= names
    bob = ("attest-rebuild", "-q", "--key", str(hub.directory / "bob"), str(image))
    done = subprocess.run(
        [*SINGBUILD, *bob],
        cwd=hub.repository / "known",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
    status, output = hub.build("known", *options)
    assert (status, "0 built, 1 as before" in output) == (0, True), output
    text = page.read_text()
    assert f"<dt>Signed by</dt><dd><code>{fingerprints[0]}</code>" in text
    assert f"<dt>Built again, bit for bit, by</dt><dd><code>{fingerprints[1]}</code>" in text
    checked = subprocess.run(hub.command("check", str(site)), capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow("images are built")
def test_prune_removes_what_only_older_commits_have(hub: Hub) -> None:
    site = hub.directory / "site"
    words = hub.command("prune", str(site))
    dry = subprocess.run([*words, "--dry-run"], capture_output=True, text=True).stdout
    count = len([*site.glob("images/*.sif")])
    subprocess.run(words, check=True, capture_output=True)
    removed = int(dry.split()[0])
    assert len([*site.glob("images/*.sif")]) == count - removed
    newest = {
        build["key"] for build in hub.collection("site").values() if build["status"] == "built"
    }
    assert newest <= {path.stem for path in site.glob("images/*.sif")}
