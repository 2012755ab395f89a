"""Tries again what a network failed at: after a pause that doubles, or as the server asks.

Not urllib3's Retry, which repeats a request, but cannot go on with a body that broke off.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from singbuild.contract import Reporter
from singbuild.download import limits
from singbuild.download.errors import TryAgainError

BACK_OFF = 0.5  # seconds before the second attempt; doubles each time
LONGEST_WAIT = 60.0  # seconds, whatever Retry-After says
T = TypeVar("T")


def retried(attempt: Callable[[], T], report: Reporter, label: str) -> T:
    """Return what ``attempt`` returns; while it raises TryAgainError, call it again.

    As often as ``limits.retries`` says. label: what is tried, as the user knows it. Raises the last
    TryAgainError's own error.
    """
    for number in range(1, 1 + limits.retries()):
        try:
            return attempt()
        except TryAgainError as again:
            wait = min(LONGEST_WAIT, max(again.wait, BACK_OFF * 2 ** (number - 1)))
            report.line(f"{label}: {again.error.why}; trying again in {wait:g} s")
            time.sleep(wait)
    try:
        return attempt()
    except TryAgainError as again:
        raise again.error from again.__cause__
