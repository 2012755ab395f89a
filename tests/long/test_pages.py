"""README and the pages, with those commands that need a network or their time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import pages

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.long]
pytestmark += [pytest.mark.timeout(3600)]  # each installs with pip, which a busy host makes long


@pytest.mark.parametrize("page", pages.pages(long=True), ids=lambda page: page.name)
def test_every_command_of_the_page(
    page: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("pages", dict(pages.execute(page, long=True)))  # xdist sends plain values
