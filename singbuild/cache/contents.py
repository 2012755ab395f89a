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
from singbuild.cache.snapshot import Entry
from singrun.images import library

KINDS = ("stage", "download", "image", "log")
SHARED = "library"  # images of a site, which are shown and never removed
PULLED = "pulled"
DAY = 86400
LAUNCH = 60.0  # seconds in which a launch opens an image that it has found


@dataclass(frozen=True)
class Item:
    """One thing on disk. name: as it is listed; of: what it belongs to, which says why it is there.

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
    listing = [*_stages(), *_directories(), *_logs()]
    return sorted(listing, key=lambda item: (KINDS.index(item.kind), item.used))


def _stages() -> Iterator[Item]:
    for entry in store.entries():
        yield Item("stage", entry.key[:12], _stage_of(entry), entry.path, entry.size, entry.used)


def _stage_of(entry: Entry) -> str:
    return f"{entry.name} of {Path(entry.recipe).name}"


def _directories() -> Iterator[Item]:
    """Yield the downloads of each backend, and each pulled image."""
    cache = workspace.cache_directory()
    for directory in _below(cache):
        if directory.name == PULLED:
            yield from filter(_has_files, map(_pulled, _below(directory)))
        elif directory != store.directory():
            of = f"what builds by {directory.name} need again"
            yield from filter(_has_files, [_tree("download", directory.name, directory, of)])


def _has_files(item: Item) -> bool:
    """Whether anything came of a download; a pull that was killed leaves an empty directory."""
    return next(_inodes(item.path), None) is not None


def _pulled(directory: Path) -> Item:
    name = directory.name.replace("%2F", "/").replace("%25", "%")
    return _tree("image", name, directory, "what singrun starts by this name")


def shared() -> list[Item]:
    """Return the images of the site's libraries, by name."""
    rows = []
    for directory in map(Path, library.directories()):
        with contextlib.suppress(OSError):
            for path in sorted(directory.iterdir()):
                name = path.name.replace("%2F", "/").replace("%25", "%")
                of = f"{path.readlink()}" if path.is_symlink() else f"shared from {directory}"
                rows.append(_tree(SHARED, name, path, of))
    return rows


def _logs() -> Iterator[Item]:
    directory = workspace.log_directory()
    with contextlib.suppress(OSError):
        yield from (
            _tree("log", path.stem, path, "a build that failed") for path in directory.glob("*.log")
        )


def _below(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return []


def _tree(kind: str, name: str, path: Path, of: str) -> Item:
    size, used = 0, 0.0
    for status in _inodes(path):
        size += status.st_blocks * 512
        used = max(used, status.st_atime, status.st_mtime)
    with contextlib.suppress(OSError):
        used = max(used, path.stat().st_mtime)  # of a pulled image: when it was started last
    return Item(kind, name, of, path, size, used)


def _inodes(path: Path) -> Iterator[os.stat_result]:
    """Yield the status of a file, or of all files below a directory."""
    for parent, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                yield os.lstat(os.path.join(parent, name))  # noqa: PTH118
    with contextlib.suppress(OSError):
        if not path.is_dir():
            yield path.lstat()


def older(listing: list[Item], days: float) -> list[Item]:
    """Return what was not used in this many days, but for logs, which nobody uses."""
    limit = time.time() - days * DAY
    return [item for item in listing if item.used < limit and item.kind != "log"]


def surplus(listing: list[Item], most: int, kind: str = "stage") -> list[Item]:
    """Return the least recently used things of a kind, beyond ``most`` bytes in all."""
    return store.surplus([item for item in listing if item.kind == kind], most)


def make_room(target: Path) -> None:
    """Remove the least recently used pulled images, beyond the limit of all.

    What was used a moment ago may be on its way to a program, and stays; so does ``target``,
    the image that was pulled just now. Nothing is done for one that is not in the cache.
    """
    home = workspace.cache_directory() / PULLED
    if home != target.parent.parent:
        return
    images = [_pulled(each) for each in _below(home)]
    images.sort(key=lambda item: item.used)
    for item in surplus(images, store.limit(), "image"):
        if item.path != target.parent and time.time() - item.used > LAUNCH:
            remove(item)


def remove(item: Item) -> None:
    """Remove one thing that is kept; a build that has it open goes on undisturbed.

    Downloads are taken away only while nobody builds: workspace.whole_cache.
    """
    if item.path.is_dir():
        workspace.remove_tree(item.path)
        return
    store.drop(item.path)
