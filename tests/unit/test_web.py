"""Libraries of images: whose word counts for an image's digest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from singbuild_web import library

from singbuild import SourceError
from tests.bench.backend_alone import source


def test_a_library_by_plain_http_does_not_say_which_digest_is_right(tmp_path: Path) -> None:
    request = source(tmp_path, From="lab/tool", Library="http://plain.invalid")
    with pytest.raises(SourceError, match="answers by plain http"):
        library.get(replace(request, bootstrap="library"))
