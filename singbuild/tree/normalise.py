"""Removes what differs between two honest runs of the same recipe.

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
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from singbuild.errors import ImageError
from singbuild.tree.metadata import BUILD_RECORD, HOME
from singbuild.tree.rootfs import Rootfs
from singbuild.tree.volatile import BACKUPS, BYTECODE, INDICES, LOGS, MACHINE_ID, SHADOW, TEMPORARY

KEEP = f"{HOME}/keep"
LONGEST_LIST = 1 << 20  # bytes
LONGEST_SHADOW = 64 << 20  # bytes
DIGITS = 20  # of a number of days
REASONS: Mapping[str, str] = {
    **TEMPORARY,
    **BACKUPS,
    LOGS: "what was logged; the files stay, empty",
    MACHINE_ID: "random on purpose; the file stays, empty",
}

PYC_HEADER = struct.Struct("<4sIII")  # magic, flags, mtime of the source, its size: PEP 552


def normalise(rootfs: Rootfs, epoch: int, *, indices: bool = False) -> None:
    """Remove what two runs of one recipe leave differently, and report what was removed.

    epoch: as the seal gets it; indices: keep apt's package indices, in an image that programs
    will be added to.
    """
    keep = _paths_to_keep(rootfs) | ({INDICES} if indices else set())
    counts = _Normalising(rootfs, epoch, frozenset(os.fsencode(p[1:]) for p in keep)).done()
    for name, count in counts.items():
        rootfs.report.line(f"normalised: {name} ({count:,}): {REASONS[name]}")
    if rootfs.exists(BUILD_RECORD):
        _record(rootfs, keep)


def _record(rootfs: Rootfs, keep: Set[str]) -> None:
    """Write the rules that were applied into the image's build record.

    Not what each rule removed, which differs from run to run.
    """
    facts = json.loads(rootfs.read(BUILD_RECORD))
    names = (step["name"].partition("-")[0] for step in facts["steps"])
    ran = {"setup", "post", "appinstall"}.intersection(names)
    if ran or not rootfs.baseline.entries:  # else all there is was copied
        facts["normalised"] = {
            name: why
            for name, why in REASONS.items()
            if name not in keep
            and rootfs.exists(posixpath.dirname(name) if name in BACKUPS else name)
        }
        rootfs.write(BUILD_RECORD, json.dumps(facts, indent=4) + "\n")


def _paths_to_keep(rootfs: Rootfs) -> set[str]:
    """Return the paths that %setup or %post asked to keep: one a line, with all below it."""
    status = rootfs.status(KEEP)
    if not status or not stat.S_ISREG(status.st_mode):
        return set()
    with rootfs.open(KEEP) as file:  # which may be a stranger's: an image's that was copied
        lines = file.read(LONGEST_LIST).decode(errors="surrogateescape").splitlines()
    return {"/" + line.strip().strip("/") for line in lines if line.strip()}


@dataclass
class _Normalising:
    """The work on one tree. keep: paths that stay, with all below them; counts: by rule."""

    rootfs: Rootfs
    epoch: int
    keep: frozenset[bytes]
    counts: Counter[str] = field(default_factory=Counter)

    def done(self) -> dict[str, int]:
        stay = _with_parents([*self.rootfs.baseline.entries, *self.keep])
        for name in filter(self._is_directory, TEMPORARY):
            self.counts[name] += self._empty(name, stay)
        for name in BACKUPS:
            if self._is_file(name, stat.S_IFREG, stat.S_IFLNK):
                self.rootfs.remove(name)
                self.counts[name] += 1
        if self._is_directory(LOGS):
            for path in filter(self._is_ours, self.rootfs.files(LOGS)):
                self._truncate(path)
        if self._is_file(MACHINE_ID) and self._status(MACHINE_ID).st_size:
            # As machine-id(5) advises for images that many machines boot: systemd fills an
            # empty one.
            self.rootfs.write(MACHINE_ID, "", 0o444)
            self.counts[MACHINE_ID] += 1
        if self._is_file(SHADOW):
            _pin_password_dates(self.rootfs, self.epoch)
        for path in filter(self._is_ours, self.rootfs.files("/", BYTECODE)):
            self._pin_bytecode(path)
        return dict(+self.counts)

    def _status(self, path: str) -> os.stat_result:
        """Return what lstat(2) says of an entry that is there."""
        status = self.rootfs.status(path, follow=False)
        assert status is not None
        return status

    def _is_kept(self, inside: bytes) -> bool:
        return any(inside == path or inside.startswith(path + b"/") for path in self.keep)

    def _is_ours(self, path: str) -> bool:
        """Whether a program of this build made or changed an entry, which is not to be kept."""
        inside, baseline = _inside(path), self.rootfs.baseline
        return not (self._is_kept(inside) or baseline.is_intact(self.rootfs.root, inside))

    def _is_file(self, name: str, *kinds: int) -> bool:
        """Whether the image has an entry that is ours. kinds: its types; by default, a file."""
        status = self.rootfs.status(name, follow=False)
        kind = stat.S_IFMT(status.st_mode) if status else 0
        return kind in (kinds or (stat.S_IFREG,)) and self._is_ours(name)

    def _is_directory(self, name: str) -> bool:
        """Whether the image has a directory; not when a link leads to another one."""
        with contextlib.suppress(ImageError):
            way = [str(each) for each in PurePosixPath(name).parents][:-1]
            statuses = [self.rootfs.status(path, follow=False) for path in (name, *way)]
            return all(status and stat.S_ISDIR(status.st_mode) for status in statuses)
        return False

    def _empty(self, directory: str, stay: frozenset[bytes]) -> int:
        """Remove what programs left below a directory; return how many entries that were."""
        count = 0
        for name in self.rootfs.names(directory):
            path = f"{directory}/{name}"
            inside = _inside(path)
            if self._is_kept(inside):
                continue
            if inside not in stay:
                self.rootfs.remove_tree(path)
                count += 1
            elif stat.S_ISDIR(self._status(path).st_mode):
                count += self._empty(path, stay)
        return count

    def _truncate(self, path: str) -> None:
        """Empty a log but keep the file: programs expect its owner and mode."""
        status = self._status(path)
        if not status.st_size:
            return
        if status.st_nlink > 1:
            self.rootfs.remove(path)  # its other name is no log
        else:
            with self.rootfs.open(path, "r+b") as file:
                file.truncate()
        self.counts[LOGS] += 1

    def _pin_bytecode(self, path: str) -> None:
        """Write the time that the seal will give a module's source into its bytecode.

        Python takes bytecode as stale when it names another time than the source
        has; in an image that cannot be written it would compile anew at every start.
        """
        with self.rootfs.open(path) as file:
            header = file.read(PYC_HEADER.size)
        if len(header) < PYC_HEADER.size:
            return
        magic, flags, mtime, size = PYC_HEADER.unpack(header)
        if flags == 0 and mtime > self.epoch and not self._keeps_time(_source(path)):
            with self.rootfs.open(path, "r+b") as file:  # only now: an overlay copies it then
                file.write(PYC_HEADER.pack(magic, flags, self.epoch & 0xFFFFFFFF, size))

    def _keeps_time(self, path: str) -> bool:
        return self.rootfs.baseline.is_intact(self.rootfs.root, _inside(path))


def _inside(path: str) -> bytes:
    """Return a path as the baseline has it: relative to the tree."""
    return os.fsencode(path.lstrip("/"))


def _with_parents(paths: Iterable[bytes]) -> frozenset[bytes]:
    """Return paths and the directories that lead to them."""
    complete: set[bytes] = set()
    for path in paths:
        while path and path not in complete:
            complete.add(path)
            path = path.rpartition(b"/")[0]
    return frozenset(complete)


def _source(path: str) -> str:
    """Return the module that bytecode was made of."""
    try:
        return importlib.util.source_from_cache(path)
    except ValueError:  # beside its source, as Python 2 and compileall -b put it
        return str(PurePosixPath(path).with_suffix(".py"))


def _pin_password_dates(rootfs: Rootfs, epoch: int) -> None:
    """Clamp the dates of password changes to the epoch; the field is in days: shadow(5)."""
    with rootfs.open(SHADOW, "r+b") as file:
        text = file.read(LONGEST_SHADOW + 1)
        if len(text) > LONGEST_SHADOW:
            return  # %post wrote something else there
        lines = [line.split(b":") for line in text.splitlines()]
        for fields in lines:
            if len(fields) > 2 and fields[2].isdigit() and len(fields[2]) < DIGITS:
                fields[2] = b"%d" % min(int(fields[2]), epoch // 86400)
        file.seek(0)
        file.write(b"".join(b":".join(fields) + b"\n" for fields in lines))
        file.truncate()
