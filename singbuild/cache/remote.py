"""Snapshots in a registry: a build anywhere begins after the steps that another has finished.

Each is a file of its own under its key as the tag, packed: a line of JSON, then the image. A list
of the keys of one build, with the digests that they have there, can be pinned by its own digest.
Who may write to the place is trusted as far as the user's own cache is, unless the list is pinned.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from singbuild import workspace
from singbuild.cache import store
from singbuild.cache.filling import TreePlan
from singbuild.cache.store import Entry, Snapshot
from singbuild.compression import inflated
from singbuild.console.display import Console
from singbuild.errors import SingbuildError, SourceError
from singbuild.transports import loading as transports
from singbuild.transports.loading import Carrier, Place

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STAGE, LIST = "stage", "stages"  # kinds of files, as transports know them
_LEVEL = 3
_PIECE = 1 << 20
_LARGEST_NOTE = 16 << 20  # bytes of a snapshot's JSON, or of a list
_NOTE = ("source", "shell", "lines")
_PIN = "@sha256:"


class Remote:
    """One place of snapshots. uri: SCHEME://HOST/NAME, with @sha256:DIGITS of a list to pin it."""

    def __init__(self, uri: str, console: Console) -> None:
        self._uri, at, digits = uri.partition(_PIN)
        self._pin = at + digits
        self._console = console
        self._listed: Mapping[str, str] | None = None
        self._fails = False
        self._carrier: Carrier = transports.find(transports.place(self._uri).scheme)

    def bring(self, snapshot: Snapshot) -> bool:
        """Whether the place had a snapshot; it is in the cache then. A place that fails is told."""
        if self._fails:
            return False
        try:
            place = self._place(snapshot.key)
            if place is None or not self._carrier.digest(place, self._console):
                return False
            fetched = self._carrier.get(place, self._console)
            is_whole = _unpack(fetched.path, snapshot, self._console)
            fetched.path.unlink(missing_ok=True)
        except SingbuildError as error:
            self._fails = True
            self._console.warn(f"the cache {self._uri} is left out: {error}")
            return False
        if is_whole:
            self._console.line(f"{snapshot.name}: taken from {self._uri}")
        return is_whole

    def send(self, plans: Iterable[TreePlan]) -> None:
        """Push what the cache has of some trees, and a list of it. Raises SourceError."""
        digests = {}
        for plan in plans:
            for snapshot in plan.snapshots.values():
                entry = store.entry(snapshot.key)
                if entry and not entry.onto:  # its image is the whole tree
                    digests[entry.key] = self._push(entry)
        if digests:
            text = json.dumps(digests, sort_keys=True).encode()
            with workspace.scratch_directory() as work:
                (work / LIST).write_bytes(text)
                digest = self._put(work / LIST, LIST, f"list-{[*digests][-1]}", {})
            self._console.line(f"{len(digests)} stages are in {self._uri}@{digest}")

    def _push(self, entry: Entry) -> str:
        place = Place(*self._uri.split("://"))
        known = self._carrier.digest(_tagged(place, entry.key), self._console)
        if known:
            return known
        about = {"singbuild.stage": entry.name, "singbuild.recipe": Path(entry.recipe).name}
        with workspace.scratch_directory() as work:
            _pack(entry, work / STAGE)
            return self._put(work / STAGE, STAGE, entry.key, about)

    def _put(self, file: Path, kind: str, tag: str, about: Mapping[str, str]) -> str:
        place = _tagged(Place(*self._uri.split("://")), tag)
        return self._carrier.put(file, kind, place, about, tag, self._console)

    def _place(self, key: str) -> Place | None:
        """Return where a snapshot is; None where the list that is pinned has none."""
        place = Place(*self._uri.split("://"))
        if not self._pin:
            return _tagged(place, key)
        if self._listed is None:
            self._listed = _read_list(self._carrier, Place(place.scheme, place.name + self._pin),
                                      self._console)  # fmt: skip
        digest = self._listed.get(key)
        return Place(place.scheme, f"{place.name}@{digest}") if digest else None


def take(
    uris: Sequence[str], tree: TreePlan, earlier: Sequence[TreePlan], console: Console
) -> None:
    """Have in the cache what places have of a build's trees; of earlier ones only if needed."""
    places = [Remote(uri, console) for uri in uris]
    if places and not _bring(tree, places):
        for each in earlier:
            _bring(each, places)


def share(uris: Sequence[str], plans: Sequence[TreePlan], console: Console) -> None:
    """Send what the cache has of a build's trees; what fails is told, the image is there."""
    for uri in uris:
        try:
            Remote(uri, console).send(plans)
        except SingbuildError as error:
            console.warn(f"the stages are not all in {uri}: {error}")


def _bring(filling: TreePlan, places: Sequence[Remote]) -> bool:
    """Have the latest snapshot of a tree that any place has in the cache, unless it is there.

    Return whether it is that of the finished image.
    """
    for name in reversed([*filling.snapshots]):
        snapshot = filling.snapshots[name]
        if store.exists(snapshot) or any(each.bring(snapshot) for each in places):
            return snapshot.name == [*filling.snapshots][-1]
    return False


def _tagged(place: Place, tag: str) -> Place:
    return Place(place.scheme, f"{place.name}:{tag}")


def _read_list(carrier: Carrier, place: Place, console: Console) -> Mapping[str, str]:
    try:
        digests = json.loads(carrier.get(place, console).read())
    except (ValueError, RecursionError):
        digests = None
    if not isinstance(digests, dict):
        raise SourceError(f"{place}: is no list of stages", remedy="Take what --cache-to printed.")
    return {str(key): str(digest) for key, digest in digests.items()}


def _pack(entry: Entry, file: Path) -> None:
    """Write a snapshot as one file. Equal ones give equal bytes."""
    note = {"sha256": entry.sha256} | {name: getattr(entry, name) for name in _NOTE}
    packer = zstd.ZstdCompressor(level=_LEVEL)
    with file.open("wb") as target, entry.path.open("rb") as image:
        target.write(packer.compress(json.dumps(note, sort_keys=True).encode() + b"\n"))
        while piece := image.read(_PIECE):
            target.write(packer.compress(piece))
        target.write(packer.flush())


def _unpack(file: Path, snapshot: Snapshot, console: Console) -> bool:
    """Take a file as a snapshot into the cache, and tell whether. Raises SourceError."""
    with file.open("rb") as packed:
        pieces = inflated(iter(lambda: packed.read(_PIECE), b""), "zstd")
        note, rest = _note(pieces, file)

        def write(part: Path) -> None:
            with part.open("wb") as image:
                for piece in itertools.chain((rest,), pieces):
                    if piece.strip(b"\0"):
                        image.write(piece)
                    else:
                        image.seek(len(piece), 1)  # a hole
                image.truncate(image.tell())
            if store.digest(part) != note["sha256"]:
                raise SourceError(f"{file}: has the wrong SHA-256")

        more = {name: note[name] for name in _NOTE if name in note}
        return store.keep(snapshot, write, console, more)


def _note(pieces: Iterator[bytes], file: Path) -> tuple[Mapping[str, Any], bytes]:
    """Return the JSON that a packed snapshot begins with, and what follows of the same piece."""
    text = b""
    for piece in pieces:
        text += piece
        if b"\n" in text or len(text) > _LARGEST_NOTE:
            break
    line, newline, rest = text.partition(b"\n")
    try:
        note = json.loads(line)
    except (ValueError, RecursionError):
        note = None
    shapes = {"sha256": str, "source": dict, "shell": str | None, "lines": list}
    is_note = newline and isinstance(note, dict) and note.keys() == shapes.keys()
    if is_note and all(isinstance(note[name], shape) for name, shape in shapes.items()):
        return note, rest
    raise SourceError(f"{file}: is no stage of a build", remedy="Name another --cache-from.")
