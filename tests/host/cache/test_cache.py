"""Stages of a build are kept, found again, shared, and never trusted when damaged."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.bench.builds import SINGBUILD, Build, Builder, killed_in
from tests.bench.host import wait_until
from tests.bench.singrun_images import ROOT

pytestmark = pytest.mark.root

TEXT = "Bootstrap: busybox\n%files\n    data.txt /data\n%post\n    echo one > /one\n"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; ``data.txt`` is there to be copied."""
    (tmp_path / "data.txt").write_text("data")
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stages"


def images(cached: Path) -> dict[str, Path]:
    """The kept images by stage."""
    notes = {json.loads(p.read_text())["name"]: p for p in cached.glob("*.json")}
    return {name: note.with_suffix(".img") for name, note in notes.items()}


def test_a_second_build_takes_the_last_stage_and_gives_the_same_image(
    cached: Path, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    path = recipe(TEXT)
    first = singbuild(path, "a.img")
    assert "cache: post: not cached yet" in first.stdout
    assert sorted(images(cached)) == ["bootstrap", "files", "image", "post"]
    second = singbuild(path, "b.img")
    assert "cache: image: hit" in second.stdout
    assert "+ echo one" not in second.stdout
    plain = singbuild("--no-cache", path, "c.img")
    assert "+ echo one" in plain.stdout
    assert len({(tmp_path / f"{name}.img").read_bytes() for name in "abc"}) == 1


@pytest.mark.parametrize(
    ("change", "hits", "says"),
    [
        ("post", "files", "changed: %post"),
        ("file", "bootstrap", "changed: data.txt"),
        ("destination", "bootstrap", "changed: %files"),
        ("environment", "post", "cache: post: hit"),
        ("interpreter", "files", "changed: %post"),
        ("argument", "files", "changed: %post"),
        ("mode", "bootstrap", "changed: data.txt"),
        ("epoch", "none", "changed: epoch"),
    ],
)
def test_a_change_takes_the_latest_stage_that_it_does_not_touch(
    change: str,
    hits: str,
    says: str,
    cached: Path,
    recipe: Callable[[str], Path],
    singbuild: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = TEXT + "    echo {{ word }}\n"
    singbuild("--build-arg=word=one", recipe(text), "a.img")
    if change == "file":
        (tmp_path / "data.txt").write_text("other")
    if change == "mode":
        (tmp_path / "data.txt").chmod(0o755)
    if change == "epoch":
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    changed = {
        "post": text + "    echo two > /two\n",
        "destination": text.replace("/data", "/elsewhere"),
        "environment": text + "%environment\n    A=1\n",
        "interpreter": text.replace("%post", "%post -c /bin/ash"),
    }.get(change, text)
    word = "two" if change == "argument" else "one"
    done = singbuild(f"--build-arg=word={word}", recipe(changed), "b.img")
    assert done.returncode == 0, done.stderr
    result = re.findall(r"cache: (\w+): hit", done.stdout)
    assert result == ([] if hits == "none" else [hits])
    assert says in done.stdout
    plain = singbuild("--no-cache", f"--build-arg=word={word}", recipe(changed), "c.img")
    assert plain.returncode == 0
    assert (tmp_path / "b.img").read_bytes() == (tmp_path / "c.img").read_bytes()


def test_entries_are_ordinary_images(
    cached: Path, recipe: Callable[[str], Path], singbuild: Build
) -> None:
    singbuild(recipe(TEXT), "a.img")
    launcher = [sys.executable, "-m", "singrun", "exec"]
    for image in images(cached).values():
        subprocess.run(["e2fsck", "-fn", image], check=True, capture_output=True)
        output = subprocess.check_output([*launcher, image, "/bin/busybox", "echo", "hi"], cwd=ROOT)
        assert output == b"hi\n"


@pytest.mark.parametrize("damage", ["flip", "truncate", "note", "no image"])
def test_a_damaged_entry_is_noticed_dropped_and_made_again(
    damage: str, cached: Path, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    path = recipe(TEXT)
    singbuild(path, "a.img")
    entry = images(cached)["image"]
    if damage == "flip":
        with entry.open("r+b") as file:
            file.seek(5000)
            file.write(b"damage")
    elif damage == "truncate":
        os.truncate(entry, 5000)
    elif damage == "note":
        entry.with_suffix(".json").write_text("{")
    else:
        entry.unlink()
    done = singbuild(path, "b.img")
    assert done.returncode == 0
    assert ("is damaged" in done.stderr) == (damage in ("flip", "truncate"))
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()
    assert "cache: image: hit" in singbuild(path, "c.img").stdout


def test_with_setup_only_the_bootstrap_is_kept(
    cached: Path, recipe: Callable[[str], Path], singbuild: Build
) -> None:
    singbuild(recipe(TEXT + "%setup\n    true\n"), "a.img")
    assert list(images(cached)) == ["bootstrap"]


def test_builds_at_the_same_time_share_it(
    cached: Path, recipe: Callable[[str], Path], singbuild: Build, builder: Builder, tmp_path: Path
) -> None:
    path = recipe(TEXT)
    running = [builder.start("-q", path, f"{n}.img", cwd=tmp_path) for n in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert len({(tmp_path / f"{n}.img").read_bytes() for n in range(4)}) == 1
    assert not list(cached.glob(".*"))
    assert "cache: image: hit" in singbuild(path, "b.img").stdout


def test_the_least_recently_used_go_first(
    cached: Path, recipe: Callable[[str], Path], singbuild: Build
) -> None:
    singbuild(recipe(TEXT), "a.img")
    sizes = [path.stat().st_blocks * 512 for path in images(cached).values()]
    oldest = images(cached)["post"].with_suffix(".json")
    os.utime(oldest, (1, 1))
    done = singbuild("cache", "prune", "--size", f"{sum(sizes) - 1}B")
    assert done.returncode == 0, done.stderr
    assert sorted(images(cached)) == ["bootstrap", "files", "image"]
    listed = singbuild("cache", "list").stdout
    assert "bootstrap" in listed
    assert "recipe.def" in listed
    assert singbuild("cache", "prune", "--size", "0").returncode == 0
    assert "0 stages of builds" in singbuild("cache", "du").stdout


def test_a_limit_holds_during_builds(
    cached: Path, recipe: Callable[[str], Path], singbuild: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SINGBUILD_CACHE_SIZE", "16M")
    assert singbuild(recipe(TEXT), "a.img").returncode == 0
    assert sum(path.stat().st_blocks * 512 for path in images(cached).values()) <= 16 << 20


@pytest.mark.root_itself("it mounts the disk; for users: test_places.py")
def test_a_cache_that_cannot_be_written_only_warns(
    cached: Path, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    path = recipe(TEXT)
    singbuild(path, "a.img")
    small = tmp_path / "small"
    small.mkdir()
    for options in ("size=5m", "size=64m,ro"):
        script = (
            f'mount -t tmpfs -o size=64m,mode=700 x "{small}" && mkdir -p "{small}/busybox" '
            f'&& cp "{tmp_path}"/cache/busybox/* "{small}/busybox/" '
            f'&& mount -o remount,{options} "{small}" && SINGBUILD_CACHEDIR="{small}" exec "$@"'
        )
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", *SINGBUILD, "-F", str(path), "b.img"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "is not cached" in done.stderr
        assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()


def test_kill_in_the_middle_of_keeping_a_stage_loses_nothing(
    cached: Path, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    kill_and_look(cached, recipe(TEXT), singbuild, tmp_path, 40, (0.1, 0.2, 0.3))


def kill_and_look(
    cached: Path, good: Path, singbuild: Build, tmp_path: Path, size: int, delays: Sequence[float]
) -> None:
    """Kill builds of so many MiB in %post or behind it; what was in the cache must stay."""
    singbuild(good, "a.img")
    before = {path.name: path.read_bytes() for path in cached.glob("*.img")}
    large = tmp_path / "large.def"
    large.write_text(TEXT + f"    dd if=/dev/urandom of=/big bs=1M count={size}\n")
    for delay in delays:
        killed_in("post", signal.SIGKILL, [large, "b.img"], tmp_path, delay)
    assert {name: (cached / name).read_bytes() for name in before} == before
    wait_until(lambda: singbuild("-F", large, "b.img").returncode == 0)
    for image in cached.glob("*.img"):
        subprocess.run(["e2fsck", "-fn", image], check=True, capture_output=True)
    assert not list(cached.glob(".*"))
