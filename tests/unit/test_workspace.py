"""What a build keeps on disk, and that the next one sweeps what a dead one left."""

from __future__ import annotations

import fcntl
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from singbuild import workspace
from singbuild.errors import HostError, ImageError
from singbuild.images import pull
from tests.bench.singrun_images import ROOT


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SINGBUILD_TMPDIR", str(tmp_path))
    return tmp_path


def test_a_scratch_directory_is_private_and_goes(scratch: Path) -> None:
    with workspace.scratch_directory() as directory:
        assert directory.parent == scratch
        assert directory.stat().st_mode & 0o777 == 0o700
        (directory / "file").touch()
    assert not list(scratch.iterdir())


def test_what_another_puts_in_a_part_files_place_is_left_alone(tmp_path: Path) -> None:
    target, victim = tmp_path / "a.img", tmp_path / "victim"
    victim.write_text("mine")
    victim.chmod(0o600)
    with workspace.part_file(target) as part:
        part.path.unlink()
        part.path.symlink_to(victim)
        part.file.write_text("image")
        part.copy_owner_and_mode_from(tmp_path.stat())
        acts: list[Callable[[], None]] = [
            lambda: part.copy_from(Path(__file__)),
            lambda: workspace.rename_into_place(part, target),
            lambda: workspace.rename_into_place(part, target, replace=False),
        ]
        for act in acts:
            with pytest.raises(ImageError, match="was replaced by another process"):
                act()
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("mine", 0o600)


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_cache_that_others_may_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(cache))
    workspace.make_in_cache(cache / "docker")
    assert cache.stat().st_mode & 0o777 == 0o700
    assert workspace.cache_directory() == cache
    cache.chmod(mode)
    with pytest.raises(HostError, match="cannot be trusted") as refused:
        workspace.cache_directory()
    assert f"chmod go-w {cache}" in refused.value.remedy
    cache.rename(tmp_path / "elsewhere").chmod(0o700)
    cache.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="is no directory"):
        workspace.cache_directory()


def test_a_place_in_the_cache_that_cannot_be_made_is_told_with_the_variable(tmp_path: Path) -> None:
    """A home that is not there, or read-only: what singrun exec docker://NAME ends with."""
    (tmp_path / "home").touch()
    target = tmp_path / "home/.cache/singbuild/pulled/a/a.img"
    with pytest.raises(HostError, match="cannot be made") as refused:
        pull.pull_once("docker-archive:a.tar", target, pull.PullOptions())
    assert "SINGBUILD_CACHEDIR" in refused.value.remedy


def test_a_cache_is_closed_to_others_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SINGBUILD", "APPTAINER", "SINGULARITY"):
        monkeypatch.delenv(f"{name}_CACHEDIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = workspace.cache_directory()
    cache.mkdir(mode=0o755)
    workspace.make_in_cache(cache / "docker")
    assert cache.stat().st_mode & 0o777 == 0o700
    before = cache.stat().st_ctime_ns
    workspace.make_in_cache(cache / "docker")
    assert cache.stat().st_ctime_ns == before


def test_a_dead_builds_scratch_is_swept_and_a_living_one_is_kept(scratch: Path) -> None:
    dead = scratch / "singbuild-scratch-dead"
    dead.mkdir(mode=0o700)
    (dead / "deep").mkdir()
    (dead / "lock").touch()
    with workspace.scratch_directory() as living, workspace.scratch_directory() as second:
        assert not dead.exists()
        assert living.exists()
        assert second.exists()


def test_an_empty_scratch_of_a_killed_build_is_swept(scratch: Path) -> None:
    (scratch / "singbuild-scratch-early").mkdir(mode=0o700)
    with workspace.scratch_directory():
        pass
    assert not list(scratch.iterdir())


def test_nobody_sweeps_what_is_just_being_made(scratch: Path) -> None:
    def build() -> None:
        for _ in range(50):
            with workspace.scratch_directory() as directory:
                (directory / "rootfs").mkdir()

    with ThreadPoolExecutor(4) as builds:
        for each in [builds.submit(build) for _ in range(4)]:
            each.result()
    assert not list(scratch.iterdir())


def test_what_dies_only_meanwhile_is_swept_at_the_end(scratch: Path) -> None:
    dying, part = scratch / "singbuild-scratch-dying", scratch / ".a.img.dying.part"
    dying.mkdir(mode=0o700)
    locks = [os.open(file, os.O_CREAT | os.O_RDWR) for file in (dying / "lock", part)]
    for lock in locks:
        fcntl.flock(lock, fcntl.LOCK_EX)
    with workspace.scratch_directory(), workspace.part_file(scratch / "a.img"):
        assert dying.exists()
        assert part.exists()
        for lock in locks:
            os.close(lock)
    assert not list(scratch.iterdir())


def test_others_files_are_never_swept(scratch: Path) -> None:
    (scratch / "singbuild-scratch-notes").write_text("mine")
    (scratch / "singbuild-scratch-files").mkdir(mode=0o700)
    (scratch / "singbuild-scratch-files" / "notes").write_text("mine")
    (scratch / "singbuild-scratch-link").symlink_to("/")
    for name in ("singbuild-mysite", "singbuild-scratch-open"):
        (scratch / name).mkdir(mode=0o755)
        (scratch / name / "lock").touch()
    before = sorted(scratch.iterdir())
    with workspace.scratch_directory():
        pass
    assert sorted(scratch.iterdir()) == before


def test_no_place_for_a_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINGBUILD_TMPDIR", "/no/such/directory")
    with pytest.raises(HostError, match="no scratch directory"), workspace.scratch_directory():
        pass


def test_a_part_file_goes_unless_renamed(tmp_path: Path) -> None:
    target = tmp_path / "an [odd] image*.img"
    with workspace.part_file(target) as part:
        assert part.path.parent == tmp_path
    assert not list(tmp_path.iterdir())
    with workspace.part_file(target) as part:
        workspace.rename_into_place(part, target)
    assert list(tmp_path.iterdir()) == [target]


def test_a_dead_builds_part_file_is_swept_and_a_living_one_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "a.img"
    dead, other = tmp_path / ".a.img.dead.part", tmp_path / ".b.img.dead.part"
    dead.touch()
    other.touch()
    living = os.open(tmp_path / ".a.img.living.part", os.O_CREAT | os.O_RDWR)
    fcntl.flock(living, fcntl.LOCK_EX)
    with workspace.part_file(target):
        pass
    os.close(living)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.img.living.part", other.name]


def test_a_target_in_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be written"):  # noqa: SIM117
        with workspace.part_file(tmp_path / "none" / "a.img"):
            pass


def test_a_log_is_kept_or_not_and_old_ones_are_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with workspace.log_file(Path("a.img")) as log:
        log.remove()
    assert not log.path.exists()
    for _ in range(workspace.KEPT_LOGS + 5):
        with workspace.log_file(Path("a.img")) as log:
            pass
    assert log.path.exists()
    assert len(list(workspace.log_directory().iterdir())) <= workspace.KEPT_LOGS + 1


def test_the_scratch_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINGBUILD_TMPDIR", "/a")
    monkeypatch.setenv("TMPDIR", "/b")
    assert workspace.scratch_parent() == Path("/a")
    monkeypatch.delenv("SINGBUILD_TMPDIR")
    assert workspace.scratch_parent() == Path("/b")
    monkeypatch.delenv("TMPDIR")
    assert workspace.scratch_parent() == Path("/var/tmp")


HOME = "import os; from singbuild.cli.main import set_home; set_home(); print(os.environ['HOME'])"


@pytest.mark.parametrize("uid", [0, 4_000_000])
def test_the_home_is_the_callers_and_never_another_ones(uid: int) -> None:
    """Without HOME, as in cron and services, and without an entry of the passwd database."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    become: dict[str, Any] = (
        {"user": uid, "group": uid, "extra_groups": [uid]} if uid and not os.geteuid() else {}
    )
    argv = [sys.executable, "-c", HOME]
    home = subprocess.check_output(argv, env=env, text=True, **become).strip()
    entry = pwd.getpwuid(os.getuid()).pw_dir
    assert home == (entry if not become else "/nonexistent")


def test_a_log_goes_elsewhere_where_its_directory_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "singbuild").mkdir()
    (tmp_path / "singbuild/log").write_text("")  # root could write any directory
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with workspace.log_file(Path("a.img")) as log:
        log.file.write("said")
    assert log.path.read_text() == "said"
    log.path.unlink()


@pytest.mark.root
def test_root_writes_nothing_into_anothers_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after sudo -E; what the environment names itself is refused."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "SINGBUILD_CACHEDIR"):
        monkeypatch.delenv(name, raising=False)
    assert workspace.cache_directory() == home / ".cache/singbuild"
    os.chown(home, 1234, 1234)
    root = Path(pwd.getpwuid(0).pw_dir)
    assert workspace.cache_directory() == root / ".cache/singbuild"
    assert workspace.log_directory() == root / ".local/state/singbuild/log"
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(home / "cache"))
    with pytest.raises(HostError, match="cannot be trusted"):
        workspace.cache_directory()


@pytest.mark.parametrize("elsewhere", [False, True], ids=["one file system", "two"])
def test_a_copy_has_the_data_and_the_holes(tmp_path: Path, *, elsewhere: bool) -> None:
    """Between two kinds of file systems copy_file_range(2) does nothing: EXDEV."""
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.write(b"first" * 1_000_000)
        file.seek(64 << 20)
        file.write(b"last")
        file.truncate(128 << 20)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        target = (Path(memory) if elsewhere else tmp_path) / "target"
        with source.open("rb") as readable, target.open("wb") as writable:
            workspace.copy_data(readable, writable)
        assert target.stat().st_size == 128 << 20
        assert target.stat().st_blocks * 512 < 16 << 20
        assert target.read_bytes() == source.read_bytes()


def open_files() -> list[str]:
    """What this process has open."""
    return sorted(str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.exists())


def private(place: Path) -> Path:
    """A directory of the user's own, with a file in it."""
    place.mkdir(mode=0o700)
    (place / "notes").write_text("mine")
    return place


def test_a_dead_makers_directory_is_swept_and_no_other_that_has_such_a_name(tmp_path: Path) -> None:
    """Who may write to the directory above may rename what is in it."""
    target = tmp_path / "a"
    for name in ("tree", "old"):
        (tmp_path / ".a.dead.part" / name / "deep").mkdir(parents=True)
    (tmp_path / ".a.dead.part").chmod(0o2700)  # as in a directory that hands on its group
    other = private(tmp_path / ".a.0123.part")
    with workspace.part_directory(target) as part:
        (part.tree / "file").touch()
        part.become(target, replace=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "a"]
    assert (other / "notes").read_text() == "mine"


def test_what_another_puts_in_a_part_directorys_place_is_left_alone(tmp_path: Path) -> None:
    with workspace.part_directory(tmp_path / "a") as part:
        (part.tree / "file").touch()
        (name,) = tmp_path.iterdir()
        name.rename(tmp_path / "moved")
        private(name)
    assert (name / "notes").read_text() == "mine"
    assert not [*(tmp_path / "moved").iterdir()]


def test_what_another_puts_in_a_scratchs_place_is_left_alone(scratch: Path) -> None:
    with workspace.scratch_directory() as directory:
        (directory / "file").touch()
        directory.rename(scratch / "moved")
        private(directory)
    assert (directory / "notes").read_text() == "mine"
    assert not [*(scratch / "moved").iterdir()]


@pytest.mark.parametrize("fails", ["sweep", "own"])
def test_nothing_stays_open_where_a_part_cannot_be_removed(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_words: object, **_more: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    before = open_files()
    if fails == "sweep":
        (tmp_path / ".a.img.dead.part").touch()
        monkeypatch.setattr(os, "unlink", refuse)
        workspace.sweep_parts(tmp_path, ".a.img.*.part")
    else:
        with pytest.raises(PermissionError), workspace.part_file(tmp_path / "a.img"):
            monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.undo()
    assert open_files() == before


def test_nothing_stays_open_where_a_scratch_cannot_be_removed(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_files()
    with pytest.raises(HostError, match="'rm'"), workspace.scratch_directory():
        monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.undo()
    assert open_files() == before


@pytest.mark.parametrize("name", ["\u8a9e" * 80 + ".img", "\U0001f4e6" * 60, "\udcff" * 240])
def test_a_log_has_room_for_any_images_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with workspace.log_file(Path(name)) as log:
        assert log.path.parent == workspace.log_directory()
        assert name.startswith(log.path.name.partition("-")[0])
