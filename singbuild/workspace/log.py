"""Logs of builds; the twenty newest are kept."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO

from singbuild.workspace.directories import log_directory

KEPT_LOGS = 20


@dataclass(frozen=True)
class Log:
    """The log of one build."""

    path: Path
    file: TextIO

    def remove(self) -> None:
        """Remove the file, when nobody will ask for it."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def log_file(image: Path) -> Iterator[Log]:
    """Open a log for one build, readable by its user only; old ones are pruned."""
    # In bytes: a name has room for 255 of them, and a character may take four.
    name = os.fsencode(image.name)[:100].decode(errors="ignore")
    prefix = f"{name}-{datetime.now():%Y%m%d-%H%M%S}-"
    directory = log_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _prune_logs(directory)
        fd, path = tempfile.mkstemp(prefix=prefix, suffix=".log", dir=directory)
    except OSError:  # a home that cannot be written: a service user's, or root's after sudo
        fd, path = tempfile.mkstemp(prefix=prefix, suffix=".log")
    with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
        yield Log(Path(path), file)


def _prune_logs(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # another build prunes at the same time
        for old in sorted(directory.glob("*.log"), key=_age)[:-KEPT_LOGS]:
            old.unlink(missing_ok=True)


def _age(path: Path) -> float:
    return path.stat().st_mtime
