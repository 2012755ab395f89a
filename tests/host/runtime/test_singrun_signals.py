"""Signals that the caller ignores or blocks are so inside, and none is left behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def image(bench: Bench) -> Path:
    return bench.image


@pytest.fixture(params=["root, loop", "root, fuse2fs", "user", "user, unpack"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people[request.param]
    images.wait_for_daemons(bench.directory)


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("ignored", ["", "INT", "PIPE", "XFSZ", "PIPE XFSZ INT"])
def test_signal_dispositions_are_the_callers(
    person: Person, image: Path, ignored: str, blocked: bool
) -> None:
    """What the launcher sends itself to see them is not left behind, either."""

    def block() -> None:
        numbers = {signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ}
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers if blocked else set())

    prefix = f"trap '' {ignored};" if ignored else ""
    read = "grep -E '^(Sig[BIP]|ShdPnd)' /proc/self/status"
    outside = person.call("sh", "-c", f"{prefix} exec {read}", preexec_fn=block).stdout
    options = " ".join(person.options)
    command = f'{prefix} exec "$0" exec {options} "$1" sh -c "$2"'
    words = (command, person.launcher, image, f"exec {read}")
    inside = person.call("sh", "-c", *words, preexec_fn=block).stdout
    assert inside == outside
    masks = {line[:6]: int(line[7:], 16) for line in inside.decode().splitlines()}
    assert masks["SigBlk"] & 0x1001002 == (0x1001002 if blocked else 0)
    names = ("INT", "PIPE", "XFSZ")
    numbers = [getattr(signal, f"SIG{name}") for name in names if name in ignored]
    assert masks["SigIgn"] & 0x1001002 == sum(1 << number - 1 for number in numbers)
