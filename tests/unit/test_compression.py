"""What is packed comes out whole or not at all, however it arrives."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import sys
from collections.abc import Callable

import pytest

from singbuild import SourceError
from singbuild.compression import MAGIC, inflated, packing_of
from singbuild.errors import UsageError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BODY = os.urandom(100_000) + bytes(3_000_000)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


def pieces(content: bytes, size: int) -> list[bytes]:
    return [content[at : at + size] for at in range(0, len(content), size)]


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("size", [1, 4093, 1 << 20])
def test_streams_one_after_the_other_come_out_as_one(packing: str, size: int) -> None:
    body = BODY[-5_000:] if size == 1 else BODY
    packed = PACKERS[packing](body) + PACKERS[packing](b"second")
    assert packing_of(packed[:MAGIC]) == packing
    assert b"".join(inflated(pieces(packed, size), "")) == body + b"second"


@pytest.mark.parametrize("packing", PACKERS)
def test_what_is_cut_off_or_damaged_is_said(packing: str) -> None:
    packed = PACKERS[packing](BODY)
    with pytest.raises(SourceError, match=f"its {packing} data are cut off"):
        list(inflated(pieces(packed[:-20], 4096), ""))
    if packing == "zstd":  # has no checksum unless its maker asks for one; the layer's digest tells
        return
    middle = len(packed) // 2
    damaged = packed[:middle] + bytes(64) + packed[middle + 64 :]
    with pytest.raises(SourceError, match=f"its {packing} data are damaged"):
        list(inflated(pieces(damaged, 4096), ""))


def test_zeros_between_streams_of_xz_are_padding() -> None:
    packed = lzma.compress(b"one") + bytes(8) + lzma.compress(b"two") + bytes(4096)
    assert b"".join(inflated(pieces(packed, 10), "")) == b"onetwo"


def test_an_archive_whose_first_name_looks_packed_is_plain() -> None:
    assert packing_of(b"BZh9.tar.x") == "plain"
    assert b"".join(inflated([b"BZh9.tar.x" + bytes(600)], "")) == b"BZh9.tar.x" + bytes(600)


@pytest.mark.parametrize("size", [1, 10, 600, 1 << 20])
def test_zeros_behind_the_last_member_of_gzip_are_padding(size: int) -> None:
    packed = gzip.compress(b"one") + gzip.compress(b"two") + bytes(1500)
    assert b"".join(inflated(pieces(packed, size), "")) == b"onetwo"


def test_behind_those_zeros_nothing_else_may_come() -> None:
    with pytest.raises(SourceError, match="its gzip data are damaged"):
        list(inflated(pieces(gzip.compress(b"one") + bytes(20) + b"more" * 9, 10), ""))


@pytest.mark.parametrize("text", ["many", "-1", "9" * 5000])
def test_a_limit_that_is_no_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINGBUILD_UNPACK_RATIO", text)
    with pytest.raises(UsageError, match="SINGBUILD_UNPACK_RATIO is"):
        list(inflated([gzip.compress(b"one")], ""))
