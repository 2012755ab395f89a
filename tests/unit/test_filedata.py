"""A file's data in whole blocks: those of zeros are found, and no others."""

from hypothesis import given
from hypothesis import strategies as st

from singbuild.ext3.geometry import BLOCK
from singbuild.ext3.writer.filedata import data_runs

ZEROS = bytes(BLOCK)
BLOCKS = (ZEROS, b"\0" * (BLOCK - 1) + b"x", b"\0x" + bytes(BLOCK - 2), b"x" + bytes(BLOCK - 1))


@given(st.lists(st.sampled_from(BLOCKS), max_size=9), st.integers(0, BLOCK - 1))
def test_runs_are_the_blocks_that_are_not_all_zeros(blocks: list[bytes], cut: int) -> None:
    data = b"".join(blocks)[: len(blocks) * BLOCK - cut]
    starts = range(0, len(data), BLOCK)
    expected = [at // BLOCK for at in starts if any(data[at : at + BLOCK])]
    runs = list(data_runs(data))
    assert [first + n for first, count in runs for n in range(count)] == expected
    ends = [first + count for first, count in runs]
    assert all(end < first for end, (first, _) in zip(ends, runs[1:], strict=False))
