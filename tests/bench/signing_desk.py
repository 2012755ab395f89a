"""A directory with an image, keys and lists of signers, as fixtures of the tests of signatures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from singbuild.cli.main import main
from singbuild.ext3.writer.seal import seal
from tests.bench.image_trees import sample_tree, with_manifest


class Desk:
    """A directory with an image, keys and lists of signers, and what is typed there."""

    def __init__(self, place: Path, run: Callable[..., tuple[int, str]]) -> None:
        self.place, self.image, self.run = place, place / "i.img", run

    def key(self, name: str = "ada", kind: str = "ed25519", *options: str) -> Path:
        path = self.place / name
        words: list[str | Path] = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", name]
        subprocess.run([*words, *options, "-f", path], check=True)
        return path

    def signers(self, *keys: Path, options: str = "") -> Path:
        path = self.place / "allowed_signers"
        rows = [f"{key.name}@lab.example {options} {public(key)}\n" for key in keys]
        path.write_text("".join(rows))
        return path

    def verified(self, *words: str | Path) -> tuple[int, dict[str, object]]:
        status, text = self.run("verify", "--json", *words, self.image)
        return status, json.loads(text)


def public(key: Path) -> str:
    return " ".join(key.with_name(key.name + ".pub").read_text().split()[:2])


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("signatures")
    tree = with_manifest(sample_tree(place / "tree", hole=1 << 20, files=20))
    return seal(tree, place / "image", epoch=2**30).path


@pytest.fixture
def desk(
    sealed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Desk:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/.config"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    (tmp_path / "home/.ssh").mkdir(parents=True)

    def run(*words: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["singbuild", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        output = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, output.out if "--json" in words else output.out + output.err

    subprocess.run(["cp", "--sparse=always", sealed, tmp_path / "i.img"], check=True)
    return Desk(tmp_path, run)


def the(verdict: dict[str, object], key: str = "status") -> list[object]:
    signatures = verdict["signatures"]
    assert isinstance(signatures, list)
    return [each[key] for each in signatures]


@pytest.fixture
def agent(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    words = ["ssh-agent", "-D", "-a", str(tmp_path / "agent")]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        while subprocess.run(["ssh-add", "-l"], capture_output=True, check=False).returncode == 2:
            assert process.poll() is None
        yield
        process.terminate()
