"""The caller's and the host's optional settings: a file that cannot be read is not there.

After ``sudo docker login`` the user's own ~/.docker may be root's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def readable(paths: Iterable[Path]) -> list[Path]:
    """Return those of the paths that are files which this process may read."""
    # Path.is_file would raise where a directory on the way is closed.
    return [path for path in paths if os.path.isfile(path) and os.access(path, os.R_OK)]  # noqa: PTH113


def matching_files(directory: Path, pattern: str) -> list[Path]:
    """Return the readable files of a directory whose names match, sorted."""
    if not (os.path.isdir(directory) and os.access(directory, os.R_OK | os.X_OK)):  # noqa: PTH112
        return []
    return readable(sorted(directory.glob(pattern)))
