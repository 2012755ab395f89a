"""The workers of pytest-xdist: tests of one group go to one of them."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("example")
def test_a_group_is_in_the_name_by_which_tests_are_scheduled(
    request: pytest.FixtureRequest,
) -> None:
    """Without it two workers would wait for one cluster: tests/conftest.py, ByFile."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("needs a worker of --dist loadgroup")
    assert request.node.nodeid.endswith("@example")
