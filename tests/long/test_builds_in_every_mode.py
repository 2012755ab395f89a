"""The tests of builds, which root runs, once more in each other mode: the same files, told so."""

from __future__ import annotations

import pytest

from tests.bench.privilege_modes import builder, builds_of, tmp_path
from tests.host.backends import test_yum_recipes
from tests.host.build import (
    test_build,
    test_disk_space,
    test_events,
    test_failed,
    test_junit,
    test_secrets,
)
from tests.host.cache import test_cache
from tests.host.registries import test_docker_build

pytestmark = [pytest.mark.root, pytest.mark.long]
__all__ = ["builder", "tmp_path"]
# What has no relation to the mode, and would take the time: what is refused before there is one;
# what a stage's key is made of, and whether one is whole.
SAME_IN_ALL = "|".join(
    (
        *("test_bad_input_is_explained", "test_what_is_no_secret_is_refused"),
        *("test_a_change_takes_the_latest_stage", "test_what_came_before_must_be_as_it_was"),
        *("test_kill_in_the_middle_of_keeping_a_stage", "test_a_damaged_entry_is_noticed"),
    )
)
globals().update(
    builds_of(
        *(test_build, test_disk_space, test_secrets, test_failed, test_events, test_junit),
        *(test_cache, test_docker_build, test_yum_recipes),
        without=SAME_IN_ALL,
    )
)
