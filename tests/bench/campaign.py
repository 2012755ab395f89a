"""Runs one check on thousands of random inputs, and says which input failed so that it comes again.

SINGBUILD_TEST_SEED     SEED (all inputs of a run) or SEED:NUMBER (one input alone)
SINGBUILD_TEST_INPUTS   how many inputs, 20,000 by default
SINGBUILD_TEST_SECONDS  run for so long instead: `make fuzz`
"""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType

from singbuild import SingbuildError
from tests.bench.host import PATIENCE

INPUTS = 20_000
LONGEST = 30  # seconds of this process for one input
STILLEST = 20 * LONGEST  # seconds by the clock, of which a busy host takes most
TIMERS = {signal.ITIMER_PROF: signal.SIGPROF, signal.ITIMER_REAL: signal.SIGALRM}  # setitimer(2)
MEMORY = 2 << 30  # bytes that a campaign may take

Check = Callable[[random.Random], str | Counter[str] | None]
"""Tries an input; returns what became of it, None for "taken". A SingbuildError is "refused"."""


class TooLongError(Exception):
    """One input took longer than any may."""


def run(name: str, check: Check, *, batch: int = 1) -> None:
    """Try the inputs and print how many became what. Raises what an input raises, and its seed.

    batch: how many inputs each call of ``check`` tries; it then returns how many became what.
    """
    outcomes: Counter[str] = Counter()
    begin, seed = time.monotonic(), ""
    slowest = (0.0, "")
    before = {number: signal.signal(number, _too_long) for number in TIMERS.values()}
    try:
        for seed in seeds(begin, batch):
            at = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, LONGEST)
            signal.setitimer(signal.ITIMER_REAL, STILLEST * PATIENCE)
            outcomes += _outcome(check, seed)
            slowest = max(slowest, (time.process_time() - at, seed))
    except BaseException:
        print(f"{name}: the input of SINGBUILD_TEST_SEED={seed} failed")
        raise
    finally:
        for timer, number in TIMERS.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
        _tell(name, outcomes, time.monotonic() - begin, slowest, seed)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10 < MEMORY


def seeds(begin: float, batch: int) -> Iterator[str]:
    """Yield the seed of each call."""
    setting = os.environ.get("SINGBUILD_TEST_SEED", "")
    if ":" in setting:
        yield setting
        return
    base = setting or str(random.SystemRandom().randrange(1 << 32))
    inputs = int(os.environ.get("SINGBUILD_TEST_INPUTS", INPUTS)) // batch
    seconds = float(os.environ.get("SINGBUILD_TEST_SECONDS", "0"))
    number = 0
    while time.monotonic() - begin < seconds if seconds else number < inputs:
        yield f"{base}:{number}"
        number += 1


def mutated(content: bytes, chance: random.Random, tokens: tuple[bytes, ...] = ()) -> bytes:
    """Return content with a few bytes changed, cut, doubled, or moved, or tokens put in."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 2, 4, 16, 64, 512)))
        kind = chance.randrange(6)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at:end] = chance.randbytes(end - at)
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = data[at:end]
        elif kind == 4:
            data[at:end] = chance.choice((b"\0", b"\xff", b"9", b"\n", b" ")) * (end - at)
        elif tokens:
            data[at : at + chance.choice((0, end - at))] = chance.choice(tokens)
    return bytes(data)


def _outcome(check: Check, seed: str) -> Counter[str]:
    try:
        outcome = check(random.Random(seed)) or "taken"
    except SingbuildError:
        outcome = "refused"
    return outcome if isinstance(outcome, Counter) else Counter([outcome])


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise TooLongError


def _tell(
    name: str, outcomes: Counter[str], seconds: float, slowest: tuple[float, str], seed: str
) -> None:
    parts = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"\n{name}: {outcomes.total():,} inputs in {seconds:.0f} s: {parts or 'none'}; "
        f"slowest {slowest[0]:.2f} s ({slowest[1]}), {memory} MiB, seed {seed.partition(':')[0]}"
    )
