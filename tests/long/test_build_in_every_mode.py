"""The tests of builds, which root runs, once more in each other mode: the same files, told so.

Each mode has a pytest of its own: for a user, one that is the user's; for the root who may not
mount, one in a container.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

import pytest

from tests.bench.builds import building_user
from tests.bench.container_engines import container_of_this_host
from tests.bench.singrun_images import ROOT, ordinary_user, without_subordinate_ids

pytestmark = [pytest.mark.root, pytest.mark.long]

FILES = (
    *(f"build/test_{name}" for name in ("build", "secrets", "failed", "events", "junit")),
    *("cache/test_cache", "registries/test_docker_build", "backends/test_yum_recipes"),
)
# What has no relation to the mode, and would take the time: what is refused before there is one;
# what a stage's key is made of, and whether one is whole; phases that end like another one.
SAME_IN_ALL = (
    *("test_bad_input_is_explained", "test_what_is_no_secret_is_refused"),
    *("test_a_change_takes_the_latest_stage", "test_what_came_before_must_be_as_it_was"),
    *("test_kill_in_the_middle_of_keeping_a_stage", "test_a_damaged_entry_is_noticed"),
    *(f"test_a_signal_in_any_phase_leaves_nothing[{name}" for name in ("resolve", "setup", "test")),
)
# These unpack by themselves, as root, and build nothing.
NO_BUILDS = (
    *("test_the_tree_is_what_umoci", "test_all_places_of_one_image", "test_what_is_no_image"),
    *("test_a_layout_that_lies", "test_an_ordinary_user_gets_all"),
)
WITHOUT_MOUNTS = (
    "test_a_section_names_its_interpreter",  # which it looks up in /proc
    "an_ordinary_user",  # who may do there what anywhere else
)


def passes(left_out: Sequence[str], env: Mapping[str, str], become: Sequence[str] = ()) -> None:
    """Run the tests; become: words that execute a command as somebody else."""
    tests = [f"tests/host/{name}.py" for name in FILES]
    chosen = " and ".join(f"not {name}" for name in (*SAME_IN_ALL, *NO_BUILDS, *left_out))
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *tests]
    env = {**os.environ, "PYTEST_ADDOPTS": "", **env}
    done = subprocess.run([*become, *argv], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:]


@pytest.mark.parametrize("mode", ["subuid", "one-id"])
def test_an_ordinary_user(mode: str) -> None:
    with ordinary_user("builder") as name, building_user(name) as user:
        if mode == "one-id":
            without_subordinate_ids(name)
        assert f"Builds here take: {mode}" in user.start("doctor").communicate()[0]
        become = ("setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--init-groups")
        mine = dict.fromkeys(("HOME", "TMPDIR"), str(user.directory))
        passes((), {"SINGBUILD_TEST_ONLY_BUILDS": "1", **mine}, become)


def test_root_in_a_container_without_privileges() -> None:
    with container_of_this_host() as within:
        inside = within(f"--workdir={ROOT}", "--env=SINGBUILD_TEST_ONLY_BUILDS=1")
        argv = [*inside, sys.executable, "-m", "singbuild", "doctor"]
        assert "Builds here take: chroot" in subprocess.check_output(argv, text=True)
        passes(WITHOUT_MOUNTS, {}, inside)
