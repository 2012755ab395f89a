"""An image is built again from what it holds; who gets the same says so in the image."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.bench import docker_images, docker_registry, docker_source
from tests.bench.builds import SINGBUILD, Build

pytestmark = pytest.mark.root
RECIPE = """\
Bootstrap: busybox
%arguments
    word=hello
%files
    data /data
%post
    echo {{ word }} > /word
%runscript
    cat /word
%test
    test -s /word
"""
STAGES = """\
FROM scratch AS made
COPY data /one
FROM scratch
ARG word=none
COPY --from=made /one /two
COPY data /${word}
"""
CHANCE = "Bootstrap: busybox\n%post\n    head -c 20 /dev/urandom > /chance\n"


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the keys ada and bob, and a list of signers that knows ada."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("ada", "bob"):
        words: list[str | Path] = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]
        subprocess.run([*words, tmp_path / name], check=True)
    (tmp_path / "known").write_text(f"ada@lab.example {(tmp_path / 'ada.pub').read_text()}")
    (tmp_path / "data").write_text("1\n")
    return tmp_path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["i.img", "i.sif", "i.sqfs"])
def test_who_gets_the_same_says_so(singbuild: Build, keys: Path, name: str) -> None:
    image = keys / name
    (keys / "r.def").write_text(RECIPE)
    words = ("--build-arg", "word=7", *(("--free", "8M") if name == "i.img" else ()))
    assert singbuild("-q", *words, "r.def", image).returncode == 0
    assert singbuild("verify", "--signers", "known", "--rebuilds", "1", image).returncode == 10
    for key in ("ada", "bob", "bob"):
        done = singbuild("attest-rebuild", "-q", "--key", key, image)
        assert (done.returncode, "rebuilt with ssh-ed25519" in done.stdout) == (0, True), done
    done = singbuild("verify", "--json", "--signers", "known", "--rebuilds", "1", image)
    result = json.loads(done.stdout)
    assert (done.returncode, result["rebuilds"]) == (0, 2)
    assert [(s["claim"], s["principals"]) for s in result["signatures"]] == [
        ("rebuilt", ["ada@lab.example"]),
        ("rebuilt", []),
    ]
    done = singbuild("verify", "--signers", "known", "--rebuilds", "2", image)
    assert done.returncode == 10
    assert "2 known signers who rebuilt it, but by 1" in done.stderr
    # Who rebuilt it has not signed it.
    assert singbuild("verify", "--signers", "known", image).returncode == 10
    assert singbuild("verify", "--signed-by", "ada@lab.example", image).returncode == 10
    assert "2 saying 'rebuilt'" in singbuild("inspect", image).stdout
    assert json.loads(singbuild("inspect", "--json", image).stdout)["signatures"] == {"rebuilt": 2}


def test_a_dockerfile_of_several_stages(singbuild: Build, keys: Path) -> None:
    (keys / "Dockerfile").write_text(STAGES)
    assert singbuild("-q", "--build-arg", "word=x", "Dockerfile", "i.img").returncode == 0
    done = singbuild("attest-rebuild", "-q", "--key", "ada", "i.img")
    assert done.returncode == 0, done


def test_a_debian_of_debootstraps(singbuild: Build, keys: Path, mini_debian: str) -> None:
    text = f"Bootstrap: debootstrap\n{mini_debian}\n%post\n    date > /built\n    mkfifo /fifo\n"
    (keys / "r.def").write_text(text)
    assert singbuild("-q", "r.def", "i.img").returncode == 0
    done = singbuild("attest-rebuild", "-q", "--key", "ada", "i.img")
    # The build's date is frozen in a lock: date(1) says another thing, and that is told.
    assert (done.returncode, "changed: /built: content" in done.stderr) == (1, True), done
    (keys / "r.def").write_text(text.replace("date > /built", "ls /usr/bin > /built"))
    assert singbuild("-q", "--force", "r.def", "i.img").returncode == 0
    done = singbuild("attest-rebuild", "-q", "--key", "ada", "i.img")
    assert done.returncode == 0, done
    done = singbuild("verify", "--signers", "known", "--rebuilds", "1", "i.img")
    assert done.returncode == 0, done


@pytest.mark.parametrize("recipe", ["r.def", "Dockerfile"])
def test_an_image_of_a_registry_is_rebuilt_from_what_its_tag_was(
    singbuild: Build, keys: Path, tmp_path: Path, recipe: str
) -> None:
    (tmp_path / "registry").mkdir()
    with docker_registry.genuine(tmp_path / "registry") as registry:
        docker_registry.push(docker_source.IMAGE, registry, "lab/base", "1")
        texts = {
            "r.def": f"Bootstrap: docker\nFrom: {registry}/lab/base:1\n%files\n    data /data\n",
            "Dockerfile": f"FROM {registry}/lab/base:1\nCOPY data /data\n",
        }
        (keys / recipe).write_text(texts[recipe])
        assert singbuild("-q", recipe, "i.img").returncode == 0
        other = docker_images.image(docker_images.archive(docker_images.file("a", b"another")))
        docker_registry.push(other, registry, "lab/base", "1")
        done = singbuild("attest-rebuild", "-q", "--key", "ada", "i.img")
        assert done.returncode == 0, done
        done = singbuild("verify", "--signers", "known", "--rebuilds", "1", "i.img")
        assert done.returncode == 0, done


def test_another_image_is_told_by_its_paths_and_nothing_is_signed(
    singbuild: Build, keys: Path
) -> None:
    (keys / "r.def").write_text(CHANCE)
    assert singbuild("-q", "r.def", "i.img").returncode == 0
    before = digest(keys / "i.img")
    done = singbuild("attest-rebuild", "-q", "--key", "ada", "i.img")
    assert (done.returncode, "changed: /chance: content" in done.stderr) == (1, True), done
    assert digest(keys / "i.img") == before
    assert not (keys / "i.img.sig").exists()
    assert [*(keys / "scratch").iterdir()] == []


@pytest.mark.parametrize(
    ("words", "change", "status", "output"),
    [
        ((), "other", 9, "files.data: locked sha256:"),
        ((), "", 3, "data does not exist"),
        (("--bind", "/srv:/mnt"), "1\n", 1, "Its build was given /srv:/mnt"),
    ],
)
def test_what_nobody_else_has_is_refused(
    singbuild: Build, keys: Path, words: tuple[str, ...], change: str, status: int, output: str
) -> None:
    (keys / "r.def").write_text(RECIPE)
    assert singbuild("-q", *words, "r.def", "i.img").returncode == 0
    (keys / "data").write_text(change) if change else (keys / "data").unlink()
    before = digest(keys / "i.img")
    done = singbuild("attest-rebuild", "-q", "--key", "ada", "i.img")
    assert (done.returncode, output in done.stderr) == (status, True), done
    assert digest(keys / "i.img") == before


@pytest.mark.parametrize("section", ["pre", "setup"])
def test_what_an_image_would_have_this_host_execute_is_refused(
    singbuild: Build, keys: Path, section: str
) -> None:
    (keys / "r.def").write_text(f"Bootstrap: busybox\n%{section}\n    touch {keys}/executed\n")
    assert singbuild("-q", "r.def", "i.img").returncode == 0
    (keys / "executed").unlink()
    done = singbuild("attest-rebuild", "-q", "--key", "ada", "i.img")
    assert done.returncode == 1
    assert f"%{section}" in done.stderr
    assert "on this host" in done.stderr
    assert not (keys / "executed").exists()


LOCK = {"recipe": {"name": "r.def"}, "arguments": {}, "arch": "x86_64"}


@pytest.mark.parametrize(
    ("lock", "record"),
    [
        ({}, {}),
        ({**LOCK, "arch": ["x"]}, {}),
        ({**LOCK, "recipe": "r.def"}, {}),
        ({**LOCK, "arguments": 7}, {}),
        (LOCK, {"free": 1 << 70}),
        (LOCK, {"free": -1}),
        (LOCK, {"host": "--fix-perms"}),
    ],
)
def test_a_made_up_lock_or_record_is_refused(
    singbuild: Build, keys: Path, lock: dict[str, object], record: dict[str, object]
) -> None:
    metadata = keys / "tree/.singularity.d"
    metadata.mkdir(parents=True)
    (metadata / "Singularity").write_text("Bootstrap: busybox\n")
    (metadata / "lock.yaml").write_text(json.dumps({"version": 1, **lock}))
    (metadata / "build.json").write_text(json.dumps(record))
    subprocess.run(["tar", "-C", keys / "tree", "-cf", keys / "t.tar", "."], check=True)
    assert singbuild("create", "i.img").returncode == 0
    assert singbuild("import", "i.img", "t.tar").returncode == 0
    done = singbuild("attest-rebuild", "-q", "--key", "ada", "i.img")
    assert done.returncode in (1, 2, 8, 9), done
    assert "Traceback" not in done.stderr


def test_a_killed_one_leaves_image_and_scratch_as_they_were(singbuild: Build, keys: Path) -> None:
    (keys / "r.def").write_text("Bootstrap: busybox\n%post\n    sleep 2\n")
    assert singbuild("-q", "r.def", "i.img").returncode == 0
    before = digest(keys / "i.img")
    words = [*SINGBUILD, "attest-rebuild", "--key", "ada", "i.img"]
    with subprocess.Popen(words, cwd=keys, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if "bootstrap" in line:
                process.send_signal(signal.SIGINT)
                break
        process.stderr.read()
    assert process.returncode == 130
    assert digest(keys / "i.img") == before
    assert [*(keys / "scratch").iterdir()] == []
