"""The runtime as a single file: all tests of launches and of options once more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bench import singrun_images as images
from tests.bench.singrun_images import Bench, Person
from tests.host.runtime.test_singrun_launch import *  # noqa: F403
from tests.host.runtime.test_singrun_launch_kills import (
    test_interruption_while_starting_leaves_nothing,
    test_many_at_once,
)
from tests.host.runtime.test_singrun_options import *  # noqa: F403
from tests.host.runtime.test_singrun_site import *  # noqa: F403

# What is killed is killed alike, whatever file it comes from.
del test_every_exit_status_comes_out  # noqa: F821

pytestmark = [pytest.mark.root, pytest.mark.long]  # type: ignore[assignment]
MANY = (test_many_at_once, test_interruption_while_starting_leaves_nothing)


@pytest.fixture(scope="module")
def bench(bench: Bench) -> Bench:
    return Bench(bench.directory, bench.user, images.single_file(bench.directory))


@pytest.fixture(params=["root, loop", "root, fuse2fs", "user"])  # type: ignore[no-redef]
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people[request.param]
    images.wait_for_daemons(bench.directory)
