"""Two launches of one program, timed in turn: whatever else the machine does, it does to both."""

from __future__ import annotations

import os
import random
import statistics
import time

from tests.bench.singrun_images import Person

RESAMPLINGS = 400
Pair = tuple[float, float]  # ms of the one and of the other


def once(words: list[str | bytes], person: Person) -> tuple[float, float]:
    """Execute a command; return the ms it took, and those of the processor."""
    began = time.perf_counter()
    pid = os.posix_spawnp(words[0], words, person.environment())
    _, status, usage = os.wait4(pid, 0)
    elapsed = time.perf_counter() - began
    if status:
        raise ChildProcessError(f"{words}: status {os.waitstatus_to_exitcode(status)}")
    return elapsed * 1000, (usage.ru_utime + usage.ru_stime) * 1000


def timed(commands: tuple[list[str | bytes], ...], person: Person, rounds: int) -> list[list[Pair]]:
    """Execute both in turn; return the times, without the first rounds, which warm caches."""
    times: list[list[Pair]] = [[], []]
    for number in range(-5, rounds):
        order = (0, 1) if number % 2 else (1, 0)
        results = {each: once(commands[each], person) for each in order}
        if number >= 0:
            for kind in (0, 1):
                times[kind].append((results[0][kind], results[1][kind]))
    return times


def ratio(pairs: list[Pair]) -> float:
    """Return the ratio of the medians."""
    return statistics.median(p for _, p in pairs) / statistics.median(w for w, _ in pairs)


def show(name: str, pairs: list[Pair], words: tuple[str, str], goal: float) -> None:
    """Print medians and their ratio, with its range in 95 of 100 resamplings, and the verdict.

    The difference is the median of those of each round. words: what the one and the other are. The
    goal of a ratio is reached for sure, missed for sure, or neither.
    """
    chance = random.Random(1)
    resampled = [ratio(chance.choices(pairs, k=len(pairs))) for _ in range(RESAMPLINGS)]
    low, *_, high = statistics.quantiles(resampled, n=40)
    more = statistics.median(other - one for one, other in pairs)
    verdict = "reached" if high <= goal else "MISSED" if low > goal else "not decided"
    medians = [
        f"{word} {statistics.median(ms):6.2f} ms"
        for word, ms in zip(words, zip(*pairs, strict=True), strict=True)
    ]
    print(f"  {name:19} {', '.join(medians)}, ratio {ratio(pairs):.3f} ({low:.3f} to {high:.3f}), "
          f"difference {more:.2f} ms: {verdict}", flush=True)  # fmt: skip
