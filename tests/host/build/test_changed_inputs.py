"""Files that change between a build's first look at them and their copy into the image."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.bench.builds import Build
from tests.bench.singrun_images import ROOT
from tests.host.build.test_dockerfiles import base

pytestmark = pytest.mark.root
__all__ = ["base"]


class Gate:
    """A server that a section waits for: what is to happen meanwhile happens before it answers."""

    def __init__(self, server: socket.socket) -> None:
        self.server = server
        self.happens: Callable[[], object] = lambda: None
        self.line = f"nc 127.0.0.1 {server.getsockname()[1]} </dev/null"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            self.happens()
            connection.sendall(b"go on\n")
            connection.close()


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Gate(server)
        server.shutdown(socket.SHUT_RDWR)


def files(gate: Gate, base: str) -> str:
    return f"""Bootstrap: busybox
Stage: first
%post
    {gate.line}

Bootstrap: busybox
Stage: last
%files from first
    /etc/passwd /first
%files
    data /copy
"""


def stage(gate: Gate, base: str) -> str:
    return f"""Bootstrap: busybox
Stage: first
%post
    {gate.line}

Bootstrap: busybox
Stage: second
%files from first
    /etc/passwd /first
%files
    data /copy

Bootstrap: busybox
Stage: last
%files from second
    /copy /copy
"""


def dockerfile(gate: Gate, base: str) -> str:
    return f"""FROM {base}
RUN {gate.line}
COPY data/ /copy/
"""


def dockerfile_mount(gate: Gate, base: str) -> str:
    return f"""FROM {base}
RUN {gate.line}
RUN --mount=type=bind,source=data,target=/mnt cp -r /mnt /copy
"""


FORMS = (files, stage, dockerfile, dockerfile_mount)


@pytest.fixture(params=FORMS, ids=lambda form: str(form.__name__))
def recipe(request: pytest.FixtureRequest, gate: Gate, base: str, tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("planned")
    path = tmp_path / ("Dockerfile" if "docker" in request.param.__name__ else "recipe.def")
    path.write_text(request.param(gate, base))
    return path


def copy(image: Path) -> str:
    words: list[str | Path] = [sys.executable, "-m", "singrun", "exec", image, "cat", "/copy/file"]
    return subprocess.check_output(words, cwd=ROOT, text=True)


def locked(image: Path) -> object:
    words: list[str | Path] = [
        sys.executable,
        "-m",
        "singrun",
        "exec",
        image,
        "cat",
        "/.singularity.d/lock.yaml",
    ]
    lock = yaml.safe_load(subprocess.check_output(words, cwd=ROOT))
    return lock["files"] or lock["stages"]["second"]["files"]


def test_the_lock_has_what_was_copied_and_the_cache_nothing(
    recipe: Path, gate: Gate, singbuild: Build, tmp_path: Path
) -> None:
    gate.happens = lambda: (tmp_path / "data/file").write_text("changed")
    done = singbuild("--force", recipe, "a.img")
    assert done.returncode == 0, done.stderr
    assert "changed while this was built" in done.stdout + done.stderr
    gate.happens = lambda: None
    assert singbuild("--force", recipe, "changed.img").returncode == 0
    (tmp_path / "data/file").write_text("planned")
    again = singbuild("--force", recipe, "planned.img")
    assert again.returncode == 0, again.stderr
    for name, text in (("a", "changed"), ("changed", "changed"), ("planned", "planned")):
        assert copy(tmp_path / f"{name}.img") == text
    locks = [locked(tmp_path / f"{name}.img") for name in ("a", "changed", "planned")]
    assert locks[0] == locks[1] != locks[2]


def test_a_build_that_keeps_to_a_lock_is_refused(
    recipe: Path, gate: Gate, singbuild: Build, tmp_path: Path, nothing_left: Callable[[], None]
) -> None:
    assert singbuild("lock", recipe).returncode == 0
    gate.happens = lambda: (tmp_path / "data/file").write_text("changed")
    done = singbuild("--locked", "--no-cache", recipe, "a.img")
    assert done.returncode == 9, done.stderr
    assert "1 input drifted from the lock" in done.stderr
    assert ".lock.yaml:" in done.stderr
    (tmp_path / "data/file").write_text("planned")
    gate.happens = lambda: (tmp_path / "data/new").touch()
    assert singbuild("--locked", "--no-cache", recipe, "a.img").returncode == 9
    nothing_left()
    (tmp_path / "data/new").unlink()
    gate.happens = lambda: None
    assert singbuild("--locked", "--no-cache", recipe, "a.img").returncode == 0


def test_a_log_beside_the_recipe_fails_no_build(
    gate: Gate, singbuild: Build, tmp_path: Path
) -> None:
    recipe, log = tmp_path / "recipe.def", tmp_path / "build.log"
    recipe.write_text(files(gate, "").replace("data", "*.log"))
    log.write_text("begins\n")

    def grow() -> None:
        with log.open("a") as file:
            file.write("goes on\n")

    gate.happens = grow
    for _ in range(2):
        done = singbuild("--force", "--no-cache", recipe, "a.img")
        assert done.returncode == 0, done.stderr
        assert "build.log: changed while this was built" in done.stdout + done.stderr


CONTEXT = [
    ("COPY link /copy/file\n", lambda d: (d / "aim").write_text("other")),
    ("COPY t*.txt /copy/\n", lambda d: (d / "this.txt").rename(d / "that.txt")),
    (
        "RUN --mount=type=bind,source=aim,target=/aim cp -r /aim /copy\n",
        lambda d: (d / "aim").write_text("other"),
    ),
    ("ADD a.tar /copy/\n", lambda d: subprocess.check_call(["tar", "-cf", "a.tar", "aim"], cwd=d)),
]


@pytest.mark.parametrize(("text", "change"), CONTEXT)
def test_the_cache_knows_all_that_is_read_of_a_context(
    text: str, change: Callable[[Path], object], base: str, singbuild: Build, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    context = tmp_path / "context"
    context.mkdir()
    (context / "aim").write_text("one")
    (context / "link").symlink_to("aim")
    (context / "this.txt").write_text("text")
    subprocess.run(["tar", "-cf", "a.tar", "this.txt"], cwd=context, check=True)
    (context / "Dockerfile").write_text(f"FROM {base}\n{text}")

    def tree(*words: str) -> bytes:
        done = singbuild("build", "--force", *words, "context/Dockerfile", "a.img")
        assert done.returncode == 0, done.stderr
        listing = ["find", "/copy", "-type", "f", "-exec", "cat", "{}", "+", "-print"]
        argv: list[str | Path] = [
            sys.executable,
            "-m",
            "singrun",
            "exec",
            tmp_path / "a.img",
            *listing,
        ]
        return subprocess.check_output(argv, cwd=ROOT)

    before = tree()
    assert tree() == before
    change(context)
    now = tree()
    assert now != before
    assert now == tree("--no-cache")
