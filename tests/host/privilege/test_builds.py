"""Some of the tests of builds in each privilege mode; tests/long has all of them.

One for each of what differs: the sections and what they leave, a failure, signals, stages, secrets
and a tree that is gone on with.
"""

from __future__ import annotations

import pytest

from tests.bench.privilege_modes import builder, builds_of, tmp_path
from tests.host.build import test_build, test_failed, test_secrets
from tests.host.cache import test_cache

pytestmark = pytest.mark.root
__all__ = ["builder", "tmp_path"]
SMOKE = "|".join(
    (
        *("test_sections_did_their_work", "test_the_worker_killed_from_outside_is_reported"),
        *("test_a_second_build_takes_the_last_stage", "test_the_recipe_itself_must_not_tell_it"),
        *("test_a_test_is_resumed_and_may_fail_again",),
    )
)
globals().update(builds_of(test_build, test_failed, test_secrets, test_cache, only=SMOKE))
