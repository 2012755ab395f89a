"""How long a server is waited for, how often it is asked again, and how fast transfers may be."""

from __future__ import annotations

import os
import re
import threading
import time

from singbuild.errors import UsageError

TIMEOUT = (15.0, 60.0)  # seconds to connect, and between two pieces of an answer
RETRIES, BANDWIDTH = "SINGBUILD_RETRIES", "SINGBUILD_BANDWIDTH"
DEFAULT_RETRIES = 4
_RATE = re.compile(r"(\d{1,12})([KMG]?)(I?B?)(/S)?")
_LONGEST_SLEEP = 0.5  # seconds, so that who is stopped ends soon


def retries() -> int:
    """Return how many more attempts follow the first: SINGBUILD_RETRIES. Raises UsageError."""
    text = os.environ.get(RETRIES) or str(DEFAULT_RETRIES)
    if not re.fullmatch(r"\d{1,3}", text):
        raise UsageError(f"{RETRIES} is {text!r}", remedy="Set it to a number, 0 for none.")
    return int(text)


def bandwidth() -> int:
    """Return the bytes a second of SINGBUILD_BANDWIDTH, 0 for any number. Raises UsageError."""
    text = os.environ.get(BANDWIDTH, "")
    rate = _RATE.fullmatch(text.replace(" ", "").upper())
    if text and not (rate and int(rate[1])):
        remedy = "Set it to bytes a second, such as 500K or 20M."
        raise UsageError(f"{BANDWIDTH} is {text!r}", remedy=remedy)
    return int(rate[1]) << 10 * ("KMG".find(rate[2] or "-") + 1) if rate else 0


class _Meter:
    """Makes all threads of this process together no faster than the bandwidth."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = 0.0  # by time.monotonic: until then the bandwidth is used up

    def passed(self, count: int) -> None:
        """Wait as long as so many bytes take. Raises UsageError."""
        if not (rate := bandwidth()):
            return
        with self._lock:
            self._free = max(self._free, time.monotonic()) + count / rate
            due = self._free
        while (wait := due - time.monotonic()) > 0:
            time.sleep(min(wait, _LONGEST_SLEEP))


passed = _Meter().passed
