"""What all tests share: who may run, where caches go, and that the host is left as it was found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session", autouse=True)
def own_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Caches, logs and scratch of the tests are the tests' own."""
    base = tmp_path_factory.mktemp("singbuild")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SINGBUILD_CACHEDIR", "SINGBUILD_TMPDIR", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
            directory = base / name.lower()
            directory.mkdir()
            patch.setenv(name, str(directory))
        yield base


@pytest.fixture(autouse=True)
def host_left_alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves a mount, a loop device or a child process behind has failed."""
    before = host_state()
    yield
    after = host_state()
    assert after == before, f"{request.node.name} left something on the host"


def host_state() -> dict[str, list[str]]:
    """What a test must not change: mounts, attached loop devices, our own child processes."""
    loops = sorted(str(p.parent.parent) for p in Path("/sys/block").glob("loop*/loop/backing_file"))
    mounts = sorted(Path("/proc/self/mounts").read_text().splitlines())
    return {"mounts": mounts, "loops": loops, "children": children()}


def children() -> list[str]:
    """The commands of this process's children, zombies included."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    names = [Path(f"/proc/{pid}/comm") for pid in found]
    return sorted(name.read_text().strip() for name in names if name.exists())
