"""Recipes of several stages: what is copied, at the same time, from the cache, and what is left."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.bench.builds import SINGBUILD, Build
from tests.bench.singrun_images import ROOT

pytestmark = pytest.mark.root

MAKER = """Bootstrap: busybox
Stage: maker
%post
    mkdir -p /opt/made/empty
    echo data > /opt/made/file
    ln /opt/made/file /opt/made/again
    ln -s file /opt/made/link
    ln -s /opt/made /opt/way
    touch /opt/made/.hidden
    chown -R 7:8 /opt/made
    chmod 4750 /opt/made/file
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def inside(image: Path, *argv: str) -> str:
    words = [sys.executable, "-m", "singrun", "exec", str(image), *argv]
    return subprocess.check_output(words, cwd=ROOT, text=True)


def test_files_come_from_a_stage_as_they_are_there(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    last = """
Bootstrap: busybox
%files from maker
    /opt/made
    /opt/way /srv/renamed
    /opt/made/* /srv/some/
    /opt/made/l?nk /srv/file
"""
    done = singbuild(recipe(MAKER + last), "a.img")
    assert done.returncode == 0, done.stderr
    result = [f"/opt/made{name}" for name in ("", "/file", "/again", "/link", "/empty")]
    more = ["/srv/renamed/link", "/srv/some/link", "/srv/some/file", "/srv/file"]
    words = ["/bin/busybox", "stat", "-c", "%N %a %u:%g %h", *result, *more]
    listed = inside(tmp_path / "a.img", *words)
    assert listed.splitlines() == [
        "/opt/made 755 7:8 3",
        "/opt/made/file 4750 7:8 2",
        "/opt/made/again 4750 7:8 2",
        "'/opt/made/link' -> 'file' 777 7:8 1",
        "/opt/made/empty 755 7:8 2",
        "'/srv/renamed/link' -> 'file' 777 7:8 1",
        "/srv/some/link 4750 7:8 1",  # named by the pattern, so followed
        "/srv/some/file 4750 7:8 1",
        "/srv/file 4750 7:8 1",
    ]
    assert ".hidden" not in inside(tmp_path / "a.img", "/bin/busybox", "ls", "-a", "/srv/some")


def test_what_a_stage_lacks_is_an_error_at_its_line(
    recipe: Callable[[str], Path], singbuild: Build, nothing_left: Callable[[], None]
) -> None:
    text = MAKER + "\nBootstrap: busybox\n%files from maker\n    /opt/other\n"
    done = singbuild(recipe(text), "a.img")
    assert done.returncode == 3
    assert (
        f"recipe.def:{text.count(chr(10))}: %files from maker: the stage has no /opt/other"
        in done.stderr
    )
    nothing_left()


def test_a_failing_stage_names_itself_and_its_line_and_ends_the_others(
    recipe: Callable[[str], Path], singbuild: Build, nothing_left: Callable[[], None]
) -> None:
    text = (
        "Bootstrap: busybox\nStage: slow\n%post\n    sleep 300\n"
        "Bootstrap: busybox\nStage: bad\n%post\n    echo soon\n    false\n"
        "Bootstrap: busybox\n%files from slow\n    /bin\n%files from bad\n    /etc\n"
    )
    done = singbuild("--json", recipe(text), "a.img")
    assert done.returncode == 7
    assert "recipe.def:9: %post failed with status 1" in done.stderr + done.stdout
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"slow/post", "bad/post"} <= {e["name"] for e in events if e["event"] == "phase"}
    assert sum(e["event"] == "error" for e in events) == 1
    nothing_left()


def test_independent_stages_are_built_at_the_same_time(
    recipe: Callable[[str], Path], singbuild: Build
) -> None:
    # Each waits for the other on the host: one after the other, neither would ever end.
    def stage(name: str, other: str) -> str:
        return (
            f"Bootstrap: busybox\nStage: {name}\n%setup\n    : > {name}.there\n"
            f"    until [ -e {other}.there ]; do sleep 0.1; done\n"
        )

    last = "Bootstrap: busybox\n%files from one\n    /bin/busybox /1\n"
    last += "%files from two\n    /bin/busybox /2\n"
    done = singbuild(recipe(stage("one", "two") + stage("two", "one") + last), "a.img")
    assert done.returncode == 0, done.stderr


def test_a_stage_whose_copies_are_cached_is_not_built_again(
    cache: Path, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    last = "\nBootstrap: busybox\n%files from maker\n    /opt/made\n%post\n    echo 1 > /n\n"
    text = MAKER + last
    first = singbuild(recipe(text), "a.img")
    assert "maker/post:" in first.stdout
    second = singbuild(recipe(text.replace("echo 1", "echo 2")), "b.img")
    assert re.findall(r"cache: (\S+): hit", second.stdout) == ["files"]
    assert "maker/" not in second.stdout
    third = singbuild(recipe(text.replace("echo data", "echo other")), "c.img")
    assert "changed: stage maker" in third.stdout
    assert inside(tmp_path / "c.img", "/bin/busybox", "cat", "/opt/made/file") == "other\n"
    plain = singbuild("--no-cache", recipe(text), "d.img")
    assert plain.returncode == 0, plain.stderr
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "d.img").read_bytes()


def test_the_lock_holds_each_stage_and_is_kept_to(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("1")
    path = recipe(MAKER.replace("%post", "%files\n    data /data\n%post", 1)
                  + "\nBootstrap: busybox\n%files from maker\n    /data\n")  # fmt: skip
    assert singbuild("lock", path).returncode == 0
    lock = yaml.safe_load((tmp_path / "recipe.lock.yaml").read_text())
    assert lock["stages"]["maker"]["backend"]["name"] == "busybox"
    assert [*lock["stages"]["maker"]["files"]] == ["data"]
    assert singbuild("--locked", path, "a.img").returncode == 0
    remaining = yaml.safe_load(
        inside(tmp_path / "a.img", "/bin/busybox", "cat", "/.singularity.d/lock.yaml")
    )
    assert remaining["stages"] == lock["stages"]
    (tmp_path / "data").write_text("2")
    done = singbuild("--locked", path, "b.img")
    assert done.returncode == 9
    assert "stages.maker.files.data: locked sha256:" in done.stderr


def test_nothing_is_left_of_stages_that_are_killed(
    recipe: Callable[[str], Path], tmp_path: Path, nothing_left: Callable[[], None]
) -> None:
    text = (
        "".join(
            f"Bootstrap: busybox\nStage: {name}\n%post\n    sleep 300\n" for name in ("one", "two")
        )
        + "Bootstrap: busybox\n%files from one\n    /bin\n%files from two\n    /etc\n"
    )
    argv = [*SINGBUILD, str(recipe(text)), "a.img"]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        output = ""
        while output.count("+ sleep 300") < 2:
            output += process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    path = recipe("Bootstrap: busybox\n")  # the next build sweeps
    assert subprocess.run([*SINGBUILD, path, "a.img"], cwd=tmp_path, check=False).returncode == 0
    (tmp_path / "a.img").unlink()
    nothing_left()
