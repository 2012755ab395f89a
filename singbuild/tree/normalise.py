"""Takes away what differs between two honest runs of the same recipe.

Only what programs made or changed in this build is touched: what a copied source brought is the
same every time (``baseline.py``). Times are not the business of this module: the seal clamps them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import posixpath
import stat
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

from singbuild import workspace
from singbuild.errors import ImageError
from singbuild.tree.metadata import HOME
from singbuild.tree.rootfs import Rootfs
from singbuild.tree.volatile import BACKUPS, BYTECODE, INDICES, LOGS, MACHINE_ID, SHADOW, TEMPORARY

KEEP = f"{HOME}/keep"
LONGEST_LIST = 1 << 20  # bytes
LONGEST_SHADOW = 64 << 20  # bytes
DIGITS = 20  # of a number of days
RECORD = f"{HOME}/build.json"
REASONS: Mapping[str, str] = {
    **TEMPORARY,
    **BACKUPS,
    LOGS: "what was logged; the files stay, empty",
    MACHINE_ID: "random on purpose; the file stays, empty",
}

PYC_HEADER = struct.Struct("<4sIII")  # magic, flags, mtime of the source, its size: PEP 552


def normalise(rootfs: Rootfs, epoch: int, *, indices: bool = False) -> None:
    """Make the tree as another honest run would have left it, and say what was taken away.

    epoch: as the seal gets it; indices: keep apt's package indices, in an image that is there
    to be added to.
    """
    keep = _paths_to_keep(rootfs) | ({INDICES} if indices else set())
    counts = _Normalising(rootfs, epoch, frozenset(os.fsencode(p[1:]) for p in keep)).done()
    for name, count in counts.items():
        rootfs.report.line(f"normalised: {name} ({count:,}): {REASONS[name]}")
    if rootfs.exists(RECORD):
        _record(rootfs, keep)


def _record(rootfs: Rootfs, keep: Set[str]) -> None:
    """Write into the image where its programs' doing was normalised.

    That is which rules have a place in it, and not what they found, which differs from run to run.
    """
    facts = json.loads(rootfs.read(RECORD))
    names = (step["name"].partition("-")[0] for step in facts["steps"])
    ran = {"setup", "post", "appinstall"}.intersection(names)
    if ran or not rootfs.baseline.entries:  # else all there is was copied
        facts["normalised"] = {
            name: why
            for name, why in REASONS.items()
            if name not in keep
            and rootfs.exists(posixpath.dirname(name) if name in BACKUPS else name)
        }
        rootfs.write(RECORD, json.dumps(facts, indent=4) + "\n")


def _paths_to_keep(rootfs: Rootfs) -> set[str]:
    """Return the paths that %setup or %post asked to keep: one a line, with all below it."""
    where = rootfs.path(KEEP)
    if not where.is_file():
        return set()
    with where.open("rb") as file:  # which may be a stranger's: an image's that was copied
        lines = file.read(LONGEST_LIST).decode(errors="surrogateescape").splitlines()
    return {"/" + line.strip().strip("/") for line in lines if line.strip()}


@dataclass
class _Normalising:
    """One tree on its way. keep: paths that stay with all below them; counts: what was done."""

    rootfs: Rootfs
    epoch: int
    keep: frozenset[bytes]
    counts: Counter[str] = field(default_factory=Counter)

    def done(self) -> dict[str, int]:
        stay = _with_parents([*self.rootfs.baseline.entries, *self.keep])
        for name in TEMPORARY:
            if where := self._directory(name):
                self.counts[name] += self._empty(where, stay)
        for name in BACKUPS:
            if where := self._file(name, stat.S_IFREG, stat.S_IFLNK):
                where.unlink()
                self.counts[name] += 1
        if where := self._directory(LOGS):
            for path in filter(self._is_ours, _walk(where)):
                self._truncate(path)
        if (where := self._file(MACHINE_ID)) and where.stat().st_size:
            self.rootfs.write(MACHINE_ID, "", 0o444)
            self.counts[MACHINE_ID] += 1
        if where := self._file(SHADOW):
            _pin_password_dates(where, self.epoch)
        for path in filter(self._is_ours, _walk(self.rootfs.root, BYTECODE)):
            self._pin_bytecode(path)
        return dict(+self.counts)

    def _inside(self, path: Path) -> bytes:
        return os.fsencode(path)[len(os.fsencode(self.rootfs.root)) + 1 :]

    def _is_kept(self, inside: bytes) -> bool:
        return any(inside == path or inside.startswith(path + b"/") for path in self.keep)

    def _is_ours(self, path: Path) -> bool:
        """Whether a program of this build made or changed an entry that nobody wants kept."""
        inside, baseline = self._inside(path), self.rootfs.baseline
        return not (self._is_kept(inside) or baseline.is_intact(self.rootfs.root, inside))

    def _file(self, name: str, *kinds: int) -> Path | None:
        """An entry of the image that is ours. kinds: that it may have; a regular file's."""
        where = self.rootfs.path(name, follow=False)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            kind = stat.S_IFMT(where.lstat().st_mode)
            if kind in (kinds or (stat.S_IFREG,)) and self._is_ours(where):
                return where
        return None

    def _directory(self, name: str) -> Path | None:
        """A directory of the image; none when a link leads to another one."""
        with contextlib.suppress(ImageError):
            where = self.rootfs.path(name)
            if where == self.rootfs.root / name.lstrip("/") and where.is_dir():
                return where
        return None

    def _empty(self, directory: Path, stay: frozenset[bytes]) -> int:
        """Remove what programs left below a directory; return how many entries that were."""
        count = 0
        for path in list(directory.iterdir()):
            inside = self._inside(path)
            if self._is_kept(inside):
                continue
            is_directory = path.is_dir() and not path.is_symlink()
            if inside not in stay:
                workspace.remove_tree(path) if is_directory else path.unlink()
                count += 1
            elif is_directory:
                count += self._empty(path, stay)
        return count

    def _truncate(self, path: Path) -> None:
        """Empty a log but keep the file: programs expect its owner and mode."""
        status = path.lstat()
        if not status.st_size:
            return
        if status.st_nlink > 1:
            path.unlink()  # its other name is no log
        else:
            os.truncate(path, 0)
        self.counts[LOGS] += 1

    def _pin_bytecode(self, path: Path) -> None:
        """Let a module's bytecode know the time that the seal will give its source.

        Python takes bytecode as stale when it names another time than the source
        has; in an image that cannot be written it would compile anew at every start.
        """
        with path.open("r+b") as file:
            header = file.read(PYC_HEADER.size)
            if len(header) < PYC_HEADER.size:
                return
            magic, flags, mtime, size = PYC_HEADER.unpack(header)
            if flags == 0 and mtime > self.epoch and not self._keeps_time(_source(path)):
                file.seek(0)
                file.write(PYC_HEADER.pack(magic, flags, self.epoch & 0xFFFFFFFF, size))

    def _keeps_time(self, path: Path) -> bool:
        return self.rootfs.baseline.is_intact(self.rootfs.root, self._inside(path))


def _with_parents(paths: Iterable[bytes]) -> frozenset[bytes]:
    """Return paths and the directories that lead to them."""
    found: set[bytes] = set()
    for path in paths:
        while path and path not in found:
            found.add(path)
            path = path.rpartition(b"/")[0]
    return frozenset(found)


def _source(path: Path) -> Path:
    """Return the module that bytecode was made of."""
    try:
        return Path(importlib.util.source_from_cache(path))
    except ValueError:  # beside its source, as Python 2 and compileall -b put it
        return path.with_suffix(".py")


def _pin_password_dates(path: Path, epoch: int) -> None:
    """Let no password have been changed after the epoch; the field is in days: shadow(5)."""
    if path.stat().st_size > LONGEST_SHADOW:
        return  # %post wrote something else there
    lines = [line.split(b":") for line in path.read_bytes().splitlines()]
    for fields in lines:
        if len(fields) > 2 and fields[2].isdigit() and len(fields[2]) < DIGITS:
            fields[2] = b"%d" % min(int(fields[2]), epoch // 86400)
    path.write_bytes(b"".join(b":".join(fields) + b"\n" for fields in lines))


def _walk(directory: Path, suffix: bytes = b"") -> Iterator[Path]:
    """Every regular file below a directory, without following links; however deep it is.

    suffix: what its name ends in.
    """
    waiting = [os.fsencode(directory)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.name.endswith(suffix) and entry.is_file(follow_symlinks=False):
                    yield Path(os.fsdecode(entry.path))
