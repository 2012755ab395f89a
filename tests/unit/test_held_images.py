"""A change reads the very file that it holds: another that gets its name meanwhile is refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from singbuild.errors import ImageError
from singbuild.ext3.writer.seal import seal
from singbuild.images import change

_swap: list[Path] = []  # a hook stays for ever: what it does, once


def _swapped(event: str, arguments: tuple[Any, ...]) -> None:
    """Let the second of ``_swap`` have the name of the first, once that was opened for writing."""
    if not _swap or event != "open" or str(arguments[0]) != str(_swap[0]):
        return
    if arguments[2] & os.O_ACCMODE == os.O_RDONLY:
        image, other = _swap
        _swap.clear()
        image.unlink()
        image.symlink_to(other)


def test_an_image_that_is_swapped_once_it_is_held(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    image, other = (
        seal(tmp_path / "tree", tmp_path / name, epoch=1_000_000_000).path
        for name in ("image", "of-somebody-else")
    )
    image.chmod(0o600)
    with change._held_image(image) as (target, opened):
        assert (target, opened.status.st_ino) == (image, image.stat().st_ino)
    sys.addaudithook(_swapped)
    _swap[:] = [image, other]
    try:
        with (
            pytest.raises(ImageError, match="replaced by another process"),
            change._held_image(image),
        ):
            pass
    finally:
        _swap.clear()
    assert image.is_symlink()
