"""The lock: what it holds, and that any drift is named with its line."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from singbuild.cli.main import commands
from singbuild.console.display import Console
from singbuild.errors import LockError, UsageError
from singbuild.formats import loading
from singbuild.plan import lock, plan
from singbuild.recipe import grammar

TEXT = "Bootstrap: busybox\n%files\n    data.txt /data\n    tree\n%post\n    echo {{ who }}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    (tmp_path / "data.txt").write_text("data")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "leaf").write_text("leaf")
    (tmp_path / "a.def").write_text(TEXT)
    return tmp_path


def make(who: str = "alice", **pins: object) -> lock.Lock:
    loaded = grammar.load("a.def", build_args=[f"who={who}"])
    return lock.make(plan.make(loaded, Console(io.StringIO())), {"sha256": "abc", **pins})


def lock_beside(here: Path) -> lock.LockFile:
    path = lock.beside("a.def")
    path.write_text(lock.dumped(make(), "a.def"))
    return lock.read(path)


def drift(file: lock.LockFile, now: lock.Lock) -> str:
    with pytest.raises(LockError) as caught:
        lock.check(file, now, now)
    return str(caught.value)


def test_a_lock_reads_back_as_it_was_made(here: Path) -> None:
    assert lock_beside(here).lock == make()
    lock.check(lock_beside(here), make(), make())


def test_what_it_holds(here: Path) -> None:
    first = make()
    assert first["recipe"]["name"] == "a.def"
    assert first["arguments"] == {"who": "alice"}
    assert first["backend"]["name"] == "busybox"
    assert list(first["files"]) == ["data.txt", "tree"]
    assert first["epoch"] == lock.DEFAULT_EPOCH


def test_the_page_names_every_key(here: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/reproducibility.md").read_text()
    table = page.partition("### The file")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == [*make(), "packages"]


def test_drift_is_named_with_its_line(here: Path) -> None:
    file = lock_beside(here)
    line = file.text.splitlines().index("  sha256: abc") + 1
    message = drift(file, make(sha256="def"))
    assert f"a.lock.yaml:{line}: pins.sha256: locked abc, now def" in message


def test_the_lines_of_many_that_drifted_are_found_by_one_reading(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"p{number}" for number in range(3000)]
    path = lock.beside("a.def")
    path.write_text(lock.dumped(make(packages={name: {"sha256": "1"} for name in names}), "a.def"))
    file, readings, compose = lock.read(path), list[str](), yaml.compose

    def counted(text: str, loader: Any = yaml.Loader) -> object:
        readings.append(text)
        return compose(text, loader)

    monkeypatch.setattr(yaml, "compose", counted)
    message = drift(file, make(packages={name: {"sha256": "2"} for name in names}))
    lines = file.text.splitlines()
    for name in ("p0", "p2999"):
        number = lines.index(f"    {name}:") + 2
        assert f"a.lock.yaml:{number}: pins.packages.{name}.sha256: locked 1, now 2" in message
    assert len(readings) == 1


def test_every_kind_of_input_drifts(here: Path) -> None:
    file = lock_beside(here)
    assert "arguments.who: locked alice, now bob" in drift(file, make("bob"))
    (here / "tree" / "leaf").chmod(0o755)
    assert "files.tree: locked" in drift(file, make())
    (here / "data.txt").write_text("other")
    assert "2 inputs drifted" in drift(file, make())
    assert "pins.new: locked nothing, now 1" in drift(lock_beside(here), make(new=1))


def test_a_lock_of_another_recipe(here: Path) -> None:
    file = lock_beside(here)
    (here / "a.def").write_text(TEXT + "    echo more\n")
    assert "recipe.sha256" in drift(file, make())


def test_the_epoch_comes_from_the_user_the_lock_the_source_in_that_order(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lock.choose_epoch({}, None) == lock.DEFAULT_EPOCH
    assert lock.choose_epoch({"epoch": 5}, None) == 5
    assert lock.choose_epoch({"epoch": 5}, {"epoch": 6}) == 6
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "7")
    assert lock.choose_epoch({"epoch": 5}, {"epoch": 6}) == 7
    for text in ("yesterday", "", "-1", "9" * 11, "9" * 5000):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
        with pytest.raises(UsageError, match=f"SOURCE_DATE_EPOCH is '{text}'"):
            lock.choose_epoch({}, None)


@pytest.mark.parametrize("text", ["", "- list", "version: 99", "a: [", "\x00", "version: 1\n\tx"])
def test_a_file_that_is_no_lock(here: Path, text: str) -> None:
    path = here / "a.lock.yaml"
    path.write_text(text)
    with pytest.raises(LockError):
        lock.read(path)


def test_no_lock_at_all_says_how_to_make_one(here: Path) -> None:
    with pytest.raises(LockError, match="cannot be read") as caught:
        lock.read(here / "none.lock.yaml")
    assert "singbuild lock" in caught.value.remedy


def test_a_lock_is_plain_yaml(here: Path) -> None:
    assert yaml.safe_load(lock.dumped(make(), "a.def"))["version"] == lock.VERSION


@pytest.mark.skipif(not shutil.which("tar2sqfs"), reason="needs tar2sqfs")
def test_the_command_names_the_writer_of_the_format(here: Path) -> None:
    words = ["lock", "--format", "sif", "-o", "with.yaml", "a.def", "--build-arg", "who=ada"]
    done = CliRunner().invoke(commands, words, standalone_mode=False)
    assert done.exit_code == 0, done.output
    writer = loading.find("sif").writer()
    assert writer.startswith("tar2sqfs")
    assert lock.read(Path("with.yaml")).lock["writer"] == writer
