"""What all tests share: who may run, where caches go, and that the host is left as it was found."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import host

OWN_VAR_TMP = pytest.StashKey["Path | None"]()


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started with & by a script
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[OWN_VAR_TMP] = None if os.geteuid() else host.own_mount_namespace()


def pytest_unconfigure(config: pytest.Config) -> None:
    if directory := config.stash.get(OWN_VAR_TMP, None):
        host.give_back(directory)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if reason := why_not(item):
            item.add_marker(pytest.mark.skip(reason=reason))


def why_not(item: pytest.Item) -> str:
    """Why who runs the tests cannot run one, "" when nothing is known against it.

    test_build_in_every_mode.py has others run such of root's tests as only build.
    """
    only_builds = "SINGBUILD_TEST_ONLY_BUILDS" in os.environ
    if os.geteuid() == 0 and not only_builds:
        return ""
    if itself := item.get_closest_marker("root_itself"):
        return f"needs root itself: {itself.args[0]}"
    return "needs root" if item.get_closest_marker("root") and not only_builds else ""


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
def host_left_alone(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A test that leaves a mount, a loop device or a child process behind has failed."""
    base = str(tmp_path_factory.getbasetemp())
    before = host.host_state(base)
    yield
    # The kernel takes a killed namespace down a moment after its last process.
    deadline = time.monotonic() + 10 * host.PATIENCE
    while (left := host.host_state(base).new_since(before)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left.end()  # so that it is charged to this test alone
    assert not left, f"{request.node.name} left something on the host: {left}"
