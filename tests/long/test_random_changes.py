"""Random sequences of changes to an image, more of them than in `make test`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.builds import Build
from tests.host.images.test_change import check_sequences

pytestmark = [pytest.mark.root, pytest.mark.long]


def test_fifty_sequences_end_as_the_model_says(singbuild: Build, tmp_path: Path) -> None:
    check_sequences(50, singbuild, tmp_path)
