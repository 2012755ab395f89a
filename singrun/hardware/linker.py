"""Where the dynamic loader finds a library by its name, on the host and in an image. ld.so(8).

The reader of its cache knows the format that glibc has written since 2.2,
alone or behind the older one: glibc, sysdeps/generic/dl-cache.h.
"""

import os

from singrun.mounts.root import Root

CACHE = "/etc/ld.so.cache"
_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER, _ENTRY = 48, 24  # bytes
_DIRECTORIES = ("/lib", "/usr/lib", "/lib64", "/usr/lib64")
_LARGEST = 16 << 20
_SHARING = 4  # names, and paths that end with them, lie over each other; in real ones twice


def entries(data: bytes) -> list[tuple[str, str]]:
    """Return (name, path) of each library in a cache, in its order; [] if it is none.

    One name may come more than once: for other machines, and for better processors. The rest is
    left out where strings are together much longer than the cache.
    """
    start = data.find(_MAGIC)
    if start < 0:
        return []
    table = data[start:]
    count = int.from_bytes(table[20:24], "little")
    rows, room = [], len(table) * _SHARING
    for at in range(_HEADER, min(_HEADER + count * _ENTRY, len(table) - _ENTRY + 1), _ENTRY):
        name, path = (_string(table, at + field) for field in (4, 8))
        room -= len(name) + len(path)
        if room < 0:
            break
        if name and path.startswith("/") and "/" not in name:
            rows.append((name, path))
    return rows


def _string(table: bytes, field: int) -> str:
    """Return the string at the offset in ``field``; "" for an offset outside the file."""
    start = int.from_bytes(table[field : field + 4], "little")
    end = table.find(b"\0", start, start + 4096)
    return table[start:end].decode("utf-8", "surrogateescape") if end > start else ""


class Host:
    """The libraries of the host, by its loader's cache ``path``."""

    def __init__(self, path: str) -> None:
        try:
            with open(path, "rb") as file:
                self._entries = entries(file.read(_LARGEST))
        except FileNotFoundError:
            self._entries = []

    def paths(self, name: str) -> list[str]:
        """Return the files that exist under this very name."""
        return [path for each, path in self._entries if each == name and os.path.exists(path)]

    def names(self, word: str) -> list[str]:
        """Return the names that are ``word``, or go on after it with a dot, or match its ``*``."""
        stem = word.rstrip("*")
        matching = [
            name
            for name, _ in self._entries
            if name == word
            or name.startswith(f"{word}.")
            or (stem != word and name.startswith(stem))
        ]
        return list(dict.fromkeys(matching))


class Inside:
    """The libraries of an image, by its own cache, the loader's usual directories and ``more``."""

    def __init__(self, root: Root, more: tuple[str, ...] = ()) -> None:
        self._root = root
        multiarch = f"{os.uname().machine}-linux-gnu"
        usual = [f"{place}/{multiarch}" for place in _DIRECTORIES[:2]]
        self._directories = [*usual, *_DIRECTORIES, *more]
        self._cached = entries(root.read(CACHE, _LARGEST))

    def open(self, name: str) -> int:
        """Return a descriptor of the library ``name``, -1 if the image has none."""
        places = [path for each, path in self._cached if each == name]
        places += [f"{directory}/{name}" for directory in self._directories]
        for path in places:
            try:
                return self._root.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            except OSError:
                continue
        return -1

    def listing(self, *names: str) -> list[str]:
        """Return all files in the directories ``names`` below those of libraries."""
        rows = []
        for place in (f"{directory}/{name}" for directory in self._directories for name in names):
            try:
                fd = self._root.open(place, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                continue
            rows += os.listdir(fd)
            os.close(fd)
        return rows
