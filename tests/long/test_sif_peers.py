"""SIF files to and from the real Apptainer 1.4.5 and siftool, in a Debian sid, by an ordinary user.

Slow: debootstrap makes that root once (minutes).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import debian_hosts as hosts
from tests.bench import installation
from tests.bench import singrun_images as images
from tests.bench.host import shared_directory
from tests.bench.singrun_images import ROOT, Person

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]
SECTIONS = """
%post
    echo made > /made
%environment
    export COLOUR=blue
%labels
    Author Ada
%help
    Says hello.
%runscript
    echo "hello $* $COLOUR"
"""
THEIRS = """Bootstrap: localimage
From: /src/theirs

%environment
    export COLOUR=green
%labels
    Author Grace
%runscript
    echo "theirs $* $COLOUR"
"""


class Bench:
    """The peers' root, and what is seen at /src there."""

    def __init__(self, place: Path) -> None:
        self.place, self.root = place, hosts.root("peers")

    def call(self, *words: str, user: str = hosts.USER) -> subprocess.CompletedProcess[str]:
        return hosts.call(self.root, *words, source=self.place, user=user, cwd="/tmp")

    def output(self, *words: str, user: str = hosts.USER) -> str:
        done = self.call(*words, user=user)
        assert done.returncode == 0, done
        return done.stdout

    def ours(self, program: str, *words: str | Path) -> str:
        """Run a program of ours, as root of this machine."""
        argv = [installation.programs() / program, *words]
        done = subprocess.run(argv, capture_output=True, text=True, cwd=self.place, check=False)
        assert done.returncode == 0, done
        return done.stdout


@pytest.fixture(scope="module")
def bench(mini_debian: str) -> Iterator[Bench]:
    if not shutil.which("debootstrap") or not shutil.which("tar2sqfs"):
        pytest.skip("needs debootstrap and tar2sqfs")
    with shared_directory() as place:
        product = Bench(place)
        images.fill(place / "box")
        (place / "mini.def").write_text(f"Bootstrap: debootstrap\n{mini_debian}\n{SECTIONS}")
        (place / "box.def").write_text(f"Bootstrap: localimage\nFrom: {place}/box\n{SECTIONS}")
        shutil.copy(ROOT / "recipes/busybox.def", place / "hello.def")
        for name in ("mini", "box", "hello"):
            product.ours("singbuild", "-q", f"{name}.def", f"{name}.sif")
            product.ours(
                "singbuild", "-q", "--format", "sif-ext3", f"{name}.def", f"{name}-ext3.sif"
            )
        yield product


@pytest.fixture(scope="module")
def theirs(bench: Bench) -> str:
    """A SIF that Apptainer built of a directory: squashfs, labels, an app."""
    # Without %post, %files and %app…: for these their root wants every capability, and a host may
    # hold some back.
    tree = images.fill(bench.place / "theirs")
    (tree / "made").write_text("made\n")
    (tree / "scif/apps/foo/scif").mkdir(parents=True)
    images.write_script(tree / "scif/apps/foo/scif/runscript", "#!/bin/sh\necho app\n")
    (bench.place / "theirs.def").write_text(THEIRS)
    bench.output("apptainer", "build", "/src/theirs.sif", "/src/theirs.def", user="root")
    return "theirs.sif"


@pytest.mark.parametrize("kind", ["", "-ext3"])
@pytest.mark.parametrize("name", ["mini", "box", "hello"])
def test_apptainer_runs_inspects_and_lists_ours(bench: Bench, name: str, kind: str) -> None:
    path = f"/src/{name}{kind}.sif"
    listed = bench.output("siftool", "list", path)
    assert all(word in listed for word in ("Def.FILE", "JSON.Labels", "SBOM (spdx-json)"))
    assert f"FS ({'Ext3' if kind else 'Squashfs'}/*System/" in listed
    assert bench.output("apptainer", "exec", path, "sh", "-c", "id -un") == f"{hosts.USER}\n"
    expected = "Hello from" if name == "hello" else "hello you blue"
    assert expected in bench.output("apptainer", "run", path, "you")
    assert expected in bench.output(path, "you")  # by its first line
    assert "IMAGE" not in bench.output("apptainer", "inspect", "--deffile", path)
    facts = json.loads(bench.output("apptainer", "inspect", "--json", "--all", path))
    label = "Title" if name == "hello" else "Author"
    assert label in facts["data"]["attributes"]["labels"]
    assert facts["data"]["attributes"]["deffile"] == (bench.place / f"{name}.def").read_text()


def test_ours_runs_what_apptainer_built(bench: Bench, theirs: str) -> None:
    with images.ordinary_user() as name:
        (bench.place / "runtime").mkdir()
        launcher = images.installed(bench.place / "runtime")
        for user in (name, "root"):
            person = Person(user, launcher)
            for way in ("unpack", "loop" if user == "root" else "squashfuse"):
                words = ("--mount-with", way, bench.place / theirs, "you")
                assert person.output("run", *words) == "theirs you green\n"
    facts = json.loads(bench.ours("singbuild", "inspect", "--json", theirs))
    assert facts["kind"].startswith("SIF (squashfs")
    assert facts["labels"]["Author"] == "Grace"
    assert "theirs" in bench.ours("singbuild", "inspect", "--runscript", theirs)
    assert facts["recipe"].strip() == THEIRS.strip()
    assert bench.ours("singularity", "apps", theirs) == "foo\n"


@pytest.mark.parametrize("target", ["c.img", "c.sif", "c.sqfs", "c-box"])
def test_ours_converts_what_apptainer_built(bench: Bench, theirs: str, target: str) -> None:
    form = ["--format", "directory"] if target == "c-box" else []
    bench.ours("singbuild", "convert", "-q", "--force", *form, theirs, target)
    assert bench.ours("singbuild", "diff", "--times", theirs, target) == "no difference\n"
    assert bench.output("apptainer", "run", f"/src/{target}", "you") == "theirs you green\n"


def test_ours_builds_from_what_apptainer_built(bench: Bench, theirs: str) -> None:
    recipe = bench.place / "onto.def"
    recipe.write_text(f"Bootstrap: localimage\nFrom: {theirs}\n%post\n    cat /made > /again\n")
    bench.ours("singbuild", "-q", "--force", recipe, "onto.img")
    assert bench.ours("singrun", "exec", "onto.img", "cat", "/again") == "made\n"
    assert bench.ours("singrun", "run", "onto.img", "you") == "theirs you green\n"


def test_an_overlay_partition_is_told_of(bench: Bench, theirs: str) -> None:
    shutil.copy(bench.place / theirs, bench.place / "layered.sif")
    words = ("apptainer", "overlay", "create", "--size", "64", "/src/layered.sif")
    bench.output(*words, user="root")
    argv = [str(installation.programs() / "singrun"), "run", f"{bench.place}/layered.sif", "you"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert (done.stdout, "overlay partition" in done.stderr) == ("theirs you green\n", True)
    notes = json.loads(bench.ours("singbuild", "inspect", "--json", "layered.sif"))["notes"]
    assert any("overlay partition" in note for note in notes)


NEW_KEYS = """
apptainer key newpair --name Grace --email grace@lab.example --comment x --password '' --push=false
gpg --batch --quiet --import ~/.apptainer/keys/pgp-public
gpg --armor --export > grace.asc
gpgconf --kill all || true
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out grace.key 2>&1
openssl pkey -in grace.key -pubout -out grace.pem
"""


@pytest.fixture(scope="module")
def out(bench: Bench) -> Path:
    """A directory where the peers' user may write."""
    place = bench.place / "out"
    place.mkdir()
    place.chmod(0o777)
    return place


def script(bench: Bench, text: str) -> subprocess.CompletedProcess[str]:
    words = ("sh", "-ec", f"cd /src/out\n{text}")
    return bench.call(*words)


def ours(bench: Bench, *words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    argv: list[str | Path] = [installation.programs() / "singbuild", *words]
    env = os.environ | {"GNUPGHOME": f"{bench.place}/gnupg"} | more
    return subprocess.run(
        argv, capture_output=True, text=True, cwd=bench.place / "out", env=env, check=False
    )


@pytest.mark.parametrize("image", ["mini.sif", "mini-ext3.sif"])
@pytest.mark.parametrize(("option", "key"), [("", "grace.asc"), ("--key grace.key", "grace.pem")])
def test_ours_verifies_what_apptainer_signed(
    bench: Bench, out: Path, image: str, option: str, key: str
) -> None:
    text = f"{NEW_KEYS}\ncp -f /src/{image} signed.sif\napptainer sign {option} signed.sif"
    done = script(bench, text)
    assert done.returncode == 0, done
    result = ours(bench, "verify", "--signers", key, "signed.sif")
    assert (result.returncode, "signed by" in result.stdout) == (0, True), result
    notes = json.loads(ours(bench, "inspect", "--json", "signed.sif").stdout)["notes"]
    assert any("is signed" in note for note in notes)
    assert bench.ours("singrun", "exec", "out/signed.sif", "echo", "runs") == "runs\n"
    for source, target in ((out / "signed.sif", "of-signed.img"), (f"../{image}", "of-plain.img")):
        assert ours(bench, "convert", "--force", source, target).returncode == 0
    assert (out / "of-signed.img").read_bytes() == (out / "of-plain.img").read_bytes()
    damaged = bytearray((out / "signed.sif").read_bytes())
    damaged[40000] ^= 1
    (out / "damaged.sif").write_bytes(damaged)
    assert ours(bench, "verify", "--signers", key, "damaged.sif").returncode in (8, 10)
    for each in (
        "signed.sif",
        "damaged.sif",
        "grace.asc",
        "grace.key",
        "grace.pem",
        "of-signed.img",
        "of-plain.img",
    ):
        (out / each).unlink()


@pytest.mark.parametrize("image", ["mini.sif", "mini-ext3.sif"])
def test_apptainer_verifies_what_ours_signed(bench: Bench, out: Path, image: str) -> None:
    home = bench.place / "gnupg"
    env = os.environ | {"GNUPGHOME": str(home)}
    if not home.exists():
        home.mkdir(mode=0o700)
        words = ["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", "ada@lab"]
        subprocess.run([*words, "rsa3072", "sign", "never"], check=True, env=env)
    export = subprocess.run(
        ["gpg", "--armor", "--export"], check=True, env=env, capture_output=True
    )
    (out / "ada.asc").write_bytes(export.stdout)
    for kind in ("ed25519", "RSA"):
        key, public = out / f"{kind}.key", out / f"{kind}.pem"
        words = ["openssl", "genpkey", "-quiet", "-algorithm", kind, "-out", str(key)]
        subprocess.run(words, check=True)
        subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
        shutil.copy(bench.place / image, out / "ours.sif")
        assert ours(bench, "sign", "--dsse", "--key", key, "ours.sif").returncode == 0
        done = script(bench, f"apptainer verify --key {kind}.pem ours.sif")
        assert done.returncode == 0, done
    shutil.copy(bench.place / image, out / "ours.sif")
    assert ours(bench, "sign", "--pgp", "ours.sif").returncode == 0
    verify = "apptainer key import ada.asc\napptainer verify --local ours.sif"
    done = script(bench, verify)
    assert (done.returncode, "ada@lab" in done.stdout + done.stderr) == (0, True), done
    assert script(bench, "apptainer exec ours.sif true").returncode == 0
    data = bytearray((out / "ours.sif").read_bytes())
    data[40000] ^= 1
    (out / "ours.sif").write_bytes(data)
    assert script(bench, verify).returncode != 0
    subprocess.run(["gpgconf", "--kill", "all"], check=True, env=env)
