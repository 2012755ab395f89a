"""``cache fill``: images into a library, a directory from which a whole site starts them.

Who starts an image from there fetches nothing and writes nothing; a person or a cron job fills it.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from singbuild import lease
from singbuild.console.display import Console
from singbuild.errors import ImageError, SingbuildError, UsageError
from singbuild.formats import loading as formats
from singbuild.images import pull
from singbuild.plan import job, lock, plan
from singbuild.plan.options import Options
from singbuild.transports import loading as transports
from singrun.errors import RunError
from singrun.images import library

_LOCK = ".singularity.d/lock.yaml"


def fill(directory: Path, words: Sequence[str], *, quiet: bool) -> int:
    """Bring images into a library, and those that are there up to date; return the exit status.

    words: each SCHEME://NAME, or SHORT=SCHEME://NAME, so that SHORT names it too. One that fails
    is reported, the others are brought; the first failure's status is returned.
    """
    failed = 0
    for short, source in map(_parted, words):
        target = directory / _place(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        with lease.leased(target):
            status = _bring(source, target, quiet=quiet)
        if status == 0 and short:
            _link(directory / short, target)
        failed = failed or status
    return failed


def _parted(word: str) -> tuple[str, str]:
    """Return the short name, "" for none, and the source."""
    before, equals, after = word.partition("=")
    short, source = (before, after) if equals and ":" not in before else ("", word)
    if short.startswith((".", "-")) or "/" in short:
        raise UsageError(f"{short!r} cannot be an image's name in a library")
    pull.check(source)
    return short, source


def _place(source: str) -> str:
    try:
        return library.place(*pull.parted(source))
    except RunError as error:
        raise UsageError(error.what, remedy=error.remedy) from error


def _bring(source: str, target: Path, *, quiet: bool) -> int:
    """Bring one image, if the one that is there is another."""
    if pull.is_file(source):
        console = Console(sys.stdout, quiet=quiet)
        place = transports.Place(*pull.parted(source))
        return pull.fetch(place, target, console, force=True, update=True)
    try:
        if _is_current(source, target):
            return 0
    except SingbuildError as error:
        Console(sys.stdout, quiet=quiet).error(error, None)
        return error.status
    return pull.pull(source, target, pull.PullOptions(force=True, quiet=quiet))


def _is_current(source: str, target: Path) -> bool:
    """Whether an image was made of what its source is now: its lock has the same pins."""
    if not target.exists():
        return False
    with contextlib.suppress(ImageError, yaml.YAMLError, ValueError, AttributeError):
        with formats.opened(target) as tree:
            entry = tree.find(_LOCK)
            old = lock.parse(tree.read(entry, lock.LARGEST).decode()) if entry else {}
        planned = plan.make(pull.recipe(source), Console(sys.stdout, quiet=True))
        now = job.resolve(planned, Options(), plan.downloads).lock
        return bool(old.get("pins")) and old["pins"] == now["pins"]
    return False


def _link(name: Path, target: Path) -> None:
    """Let a name lead to an image, in place of what it led to."""
    if name.exists() and not name.is_symlink():
        raise ImageError(f"{name} is an image of its own", remedy="Choose another name.")
    # symlink(2) replaces nothing, and a launch has to find the name at any moment: rename(2).
    with tempfile.TemporaryDirectory(prefix=".", dir=name.parent) as beside:
        link = Path(beside, "link")
        link.symlink_to(target.relative_to(name.parent))
        link.rename(name)
