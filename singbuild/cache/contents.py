"""All that singbuild keeps on disk between builds: stages, downloads, pulled images, logs.

Stages are ``store``'s; every other directory of the cache is a backend's downloads, but for
``pulled``, where ``singrun`` has images of registries made.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from singbuild import workspace
from singbuild.cache import store

KINDS = ("stage", "download", "image", "log")
PULLED = "pulled"
DAY = 86400


@dataclass(frozen=True)
class Item:
    """One thing that is kept. name: what people call it by; of: the recipe or source it is of.

    size: bytes on the disk; used: when it was last used, seconds since 1970.
    """

    kind: str
    name: str
    of: str
    path: Path
    size: int
    used: float


def items() -> list[Item]:
    """Return all that is kept, by kind, the least recently used first."""
    found = [*_stages(), *_directories(), *_logs()]
    return sorted(found, key=lambda item: (KINDS.index(item.kind), item.used))


def _stages() -> Iterator[Item]:
    for entry in store.entries():
        yield Item("stage", entry.key[:12], _stage_of(entry), entry.path, entry.size, entry.used)


def _stage_of(entry: store.Entry) -> str:
    return f"{entry.name} of {Path(entry.recipe).name}"


def _directories() -> Iterator[Item]:
    """Yield the downloads of each backend, and each pulled image."""
    cache = workspace.cache_directory()
    for directory in _below(cache):
        if directory.name == PULLED:
            yield from (
                _tree("image", each.name.replace("%2F", "/"), each) for each in _below(directory)
            )
        elif directory != store.directory():
            yield _tree("download", directory.name, directory)


def _logs() -> Iterator[Item]:
    directory = workspace.log_directory()
    with contextlib.suppress(OSError):
        yield from (_tree("log", path.stem, path) for path in directory.glob("*.log"))


def _below(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return []


def _tree(kind: str, name: str, path: Path) -> Item:
    size, used = 0, 0.0
    for status in _inodes(path):
        size += status.st_blocks * 512
        used = max(used, status.st_atime, status.st_mtime)
    return Item(kind, name, "", path, size, used)


def _inodes(path: Path) -> Iterator[os.stat_result]:
    """Yield the status of a file, or of all files below a directory."""
    for parent, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                yield os.lstat(os.path.join(parent, name))  # noqa: PTH118
    with contextlib.suppress(OSError):
        if not path.is_dir():
            yield path.lstat()


def older(found: list[Item], days: float) -> list[Item]:
    """Return what was not used in this many days."""
    limit = time.time() - days * DAY
    return [item for item in found if item.used < limit]


def surplus(found: list[Item], most: int) -> list[Item]:
    """Return the least recently used stages that are more than ``most`` bytes."""
    stages = [item for item in found if item.kind == "stage"]
    total, over = sum(item.size for item in stages), []
    for item in stages:
        if total <= most:
            break
        over.append(item)
        total -= item.size
    return over


def remove(item: Item) -> None:
    """Remove one thing that is kept; a build that has it open goes on undisturbed.

    Downloads are taken away only while nobody builds: workspace.whole_cache.
    """
    if item.path.is_dir():
        workspace.remove_tree(item.path)
        return
    with contextlib.suppress(OSError):
        item.path.with_suffix(".json").unlink(missing_ok=True)
        item.path.unlink(missing_ok=True)
