"""The cache of snapshots: trees after a step, kept as images under a key of all that went in.

An entry is two files: ``KEY.img``, an image, and ``KEY.json``, which says what it is and what
it was made of. Where the tree lay over that of another entry, the image holds what differs from
that one, as overlayfs(5) keeps it, and is of use together with it alone. An entry is complete once
both are there; they are written beside their names and renamed. A damaged
image is noticed by its SHA-256 before it is used, and dropped. What was compared is what is used:
images stay open from then on, whatever other builds do with their names.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol, TypeVar

from singbuild import workspace
from singbuild.cache.snapshot import Entry, Snapshot
from singbuild.configuration import reading
from singbuild.console.display import Console
from singbuild.console.sizes import parse_size
from singbuild.errors import SingbuildError, UsageError
from singbuild.ext3.writer import seal
from singbuild.tree import layers
from singbuild.tree.rootfs import Rootfs
from singbuild.workspace import Part


def directory() -> Path:
    """Return where the entries are."""
    return workspace.cache_directory() / "stages"


def entries() -> list[Entry]:
    """Return all complete entries, the least recently used first."""
    readable = []
    for note in directory().glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            readable.append(_read(note))
    return sorted(readable, key=lambda entry: entry.used)


def before(snapshot: Snapshot) -> Entry | None:
    """Return the latest entry of the same step of the same recipe, if there is one."""
    others: list[Entry] = []
    with contextlib.suppress(OSError):  # a cache that may not be read is an empty one
        others = [e for e in entries() if (e.name, e.recipe) == (snapshot.name, snapshot.recipe)]
    return others[-1] if others else None


def exists(snapshot: Snapshot, *, whole: bool = False) -> bool:
    """Whether the cache has a snapshot; whether it is sound is another question.

    whole: in one image.
    """
    try:
        return not (_read(directory() / f"{snapshot.key}.json").onto and whole)
    except (OSError, ValueError, TypeError, KeyError):
        return False


@contextlib.contextmanager
def cached(
    snapshot: Snapshot | None,
    report: Console,
    label: str = "",
    *,
    whole: bool = False,
    meanwhile: Callable[[Entry], object] = lambda _entry: None,
) -> Iterator[Entry | None]:
    """Open the entry of a snapshot for a with-block if it is there and sound; None otherwise.

    Says why it hit, or what changed. label: what stands before its name; whole: only one of a
    single image is of use; meanwhile: what is done while an entry is read to see whether it is
    sound.
    """
    with contextlib.ExitStack() as stack:
        if snapshot is None:
            yield None
            return
        try:
            entry = _open(snapshot.key, stack)
        except (OSError, ValueError, TypeError, KeyError):
            report.cache(label + snapshot.name, _why_missed(snapshot), hit=False)
            yield None
            return
        if whole and entry.onto:
            report.cache(label + snapshot.name, "no overlay can be mounted here for it", hit=False)
            yield None
            return
        with ThreadPoolExecutor(1, "digest") as thread:
            reading = thread.submit(_damaged, entry)
            meanwhile(entry)
            damaged = reading.result()
        if damaged:
            report.warn(f"the cache entry {damaged.path} is damaged; it is dropped and made again")
            drop(damaged.path)
            yield None
            return
        with contextlib.suppress(OSError):  # a cache that others may only read is still of use
            for each in entry.chain:
                os.utime(each.path.with_suffix(".json"))
        report.cache(
            label + snapshot.name, f"hit {entry.key[:12]}", hit=True, unchanged=snapshot.inputs
        )
        yield entry


@contextlib.contextmanager
def opened(key: str) -> Iterator[Entry | None]:
    """Open the entry of a key for a with-block if it is there and sound; None otherwise."""
    with contextlib.ExitStack() as stack:
        try:
            newest = _open(key, stack)
        except (OSError, ValueError, TypeError, KeyError):
            yield None
            return
        yield None if _damaged(newest) else newest


def _open(key: str, stack: contextlib.ExitStack) -> Entry:
    """Return an entry whose images are open until ``stack`` ends. Raises what ``_read`` raises."""
    with _locked(directory()):
        return _with_image(_read(directory() / f"{key}.json"), stack)


def _with_image(entry: Entry, stack: contextlib.ExitStack) -> Entry:
    fd = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    below = _with_image(entry.below, stack) if entry.below else None
    return replace(entry, fd=fd, below=below)


def _damaged(entry: Entry) -> Entry | None:
    """Return the entry, or one below it, whose image is not what was written."""
    return next((each for each in entry.chain if digest(each.image) != each.sha256), None)


def store(
    snapshot: Snapshot,
    rootfs: Rootfs,
    epoch: int,
    report: Console,
    shell: str | None = "",
    lines: Sequence[str] = (),
    *,
    whole: bool = False,
    newest: bool = False,
) -> bool:
    """Store a snapshot; return whether it was. A cache that cannot be written costs a warning.

    shell, lines: as ``Entry`` has them; whole: its image shall be that of the whole tree;
    newest: it replaces the entry of its key, where the key is not one of the inputs (a failed
    build's tree).
    """
    below = rootfs.layers
    changes = None if whole or below is None else below.difference()

    def write(part: Path) -> str:
        times = rootfs.baseline.times(rootfs.root)
        tree = changes or rootfs.root
        seal.seal(tree, part, epoch=epoch, owners=rootfs.recorded_owners(), times=times)
        return digest(part)

    more: dict[str, object] = {"source": rootfs.baseline.saved(rootfs.root), "shell": shell}
    more |= {"lines": [*lines]} if lines else {}
    more |= {"onto": below.base} if below and changes else {}
    return keep(snapshot, write, report, more, whole=whole, newest=newest)


@contextlib.contextmanager
def image_storage(
    snapshot: Snapshot | None, finished: Part, report: Console
) -> Iterator[Callable[[], None]]:
    """Yield a function that stores a finished image under its snapshot's key, if it has one.

    A thread does it while the with-block goes on; the block's end waits for it.
    """

    def write(part: Path) -> str:
        with (
            finished.opened() as file,
            part.open("wb") as copy,
            ThreadPoolExecutor(1, "digest") as thread,
        ):
            sha256 = thread.submit(digest, finished.file)
            workspace.copy_data(file, copy)
            return sha256.result()

    storing: list[Future[bool]] = []
    with ThreadPoolExecutor(1, "store") as thread:

        def begin() -> None:
            if snapshot:
                storing.append(thread.submit(keep, snapshot, write, report, {"source": {}}))

        yield begin
        for each in storing:
            each.result()


def keep(
    snapshot: Snapshot,
    write: Callable[[Path], str],
    report: Console,
    more: Mapping[str, object],
    *,
    whole: bool = False,
    newest: bool = False,
) -> bool:
    """Store what ``write`` writes as the image of a snapshot; return whether it was.

    write: returns the SHA-256 of what it wrote; more: the fields source, shell, lines and onto of
    its ``Entry``; whole, newest: as ``store`` has them.
    """
    home = directory()
    target = home / f"{snapshot.key}.img"
    try:
        workspace.make_in_cache(home)
        home.chmod(0o700)  # a snapshot may hold what a later one takes away
        note = target.with_suffix(".json")
        with workspace.part_file(target) as part, workspace.part_file(note) as note_part:
            facts = asdict(snapshot) | {"sha256": write(part.file), **more}
            note_part.file.write_text(json.dumps(facts, indent=1))
            with _locked(home):
                # The first of two equal ones stays: builds that found it are about to open it, and
                # one image may be of the whole tree, the other of what it adds to another.
                if newest or not exists(snapshot, whole=whole):
                    # Without fsync(2), which waits for the disk: an image that a crash damages has
                    # another digest than its note says, and is dropped.
                    # The note first: without its image it is no entry, and takes no room.
                    workspace.rename_into_place(note_part, note, lasting=False)
                    workspace.rename_into_place(part, target, lasting=False)
        prune(limit())
    except (OSError, SingbuildError) as error:
        report.warn(
            f"what the steps leave is not cached: {error}\n"
            f"SINGBUILD_CACHEDIR names another directory; --no-cache goes without."
        )
        return False
    return True


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Lock the cache against other builds for the time of a with-block: flock(2)."""
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some file systems of clusters know no locks
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def limit() -> int:
    """Return the bytes the cache may take: "cache size" as configured. Raises UsageError."""
    value = reading.current().value("cache size")
    try:
        return parse_size(value.text)
    except UsageError as error:
        raise UsageError(f"{value.source}: {error.what}", remedy=error.remedy) from None


def prune(most: int) -> list[Entry]:
    """Drop the least recently used entries until the rest takes at most ``most`` bytes."""
    workspace.sweep_parts(directory(), ".*.part")
    _drop_useless()
    doomed = surplus(entries(), most)
    for entry in doomed:
        drop(entry.path)
    return doomed


def _drop_useless() -> None:
    """Drop entries of one file alone, and those that lie over one which is not there any more."""
    with contextlib.suppress(OSError), _locked(directory()):
        for path in directory().glob("[!.]*"):
            try:
                _read(path.with_suffix(".json"))
            except (OSError, ValueError, TypeError, KeyError):
                drop(path.with_suffix(".img"))


class _Sized(Protocol):
    @property
    def size(self) -> int: ...


_S = TypeVar("_S", bound=_Sized)


def surplus(by_age: Sequence[_S], most: int) -> list[_S]:
    """Return the least recently used, which come first, beyond ``most`` bytes in all."""
    total, doomed = sum(each.size for each in by_age), []
    for each in by_age:
        if total <= most:
            break
        doomed.append(each)
        total -= each.size
    return doomed


def drop(image: Path) -> None:
    """Remove an entry by the path of its image; a build that has it open goes on undisturbed."""
    with contextlib.suppress(OSError):
        # The note first: an image without one is no entry, however far this gets.
        image.with_suffix(".json").unlink(missing_ok=True)
        image.unlink(missing_ok=True)


def _read(note: Path, below: int = layers.MOST) -> Entry:
    """Return an entry. below: how many may be below it. Raises OSError, ValueError and others."""
    fields = json.loads(note.read_text())
    path = note.with_suffix(".img")
    size = path.stat().st_blocks * 512
    entry = Entry(key=note.stem, path=path, size=size, used=note.stat().st_mtime, **fields)
    if not entry.onto:
        return entry
    if not below:
        raise ValueError(f"{note}: too many images below it")
    other = _read(note.with_name(f"{entry.onto.partition(':')[0]}.json"), below - 1)
    if other.base != entry.onto:
        raise ValueError(f"{note}: what it lies over was made anew")
    return replace(entry, below=other)


def _why_missed(snapshot: Snapshot) -> str:
    """Return what changed since the latest entry of the same step of the same recipe."""
    other = before(snapshot)
    if other is None:
        return "not cached yet"
    differing = changed(other.inputs, snapshot.inputs)
    return f"changed: {', '.join(differing) or 'an earlier stage'}"


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names of the inputs that differ."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def digest(path: Path) -> str:
    """Return a file's SHA-256; "" for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
