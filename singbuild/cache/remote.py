"""Snapshots in a registry: a build anywhere begins after the steps that another has finished.

Each is a file of its own under its key as the tag, packed: a line of JSON, then the image. A list
of the keys of one build, with the digests that they have there, can be pinned by its own digest.
Who may write to the place is trusted as far as the user's own cache is, unless the list is pinned,
or signers are named whose stages alone are taken.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from singbuild import workspace
from singbuild.cache import stage_signatures, store
from singbuild.cache.filling import TreePlan
from singbuild.cache.snapshot import Entry, Snapshot
from singbuild.compression import inflated
from singbuild.console.display import Console
from singbuild.errors import SingbuildError, SourceError
from singbuild.plan.options import Options
from singbuild.transports import loading as transports
from singbuild.transports.loading import Carrier, Place

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Kinds of files, as transports know them.
STAGE, LIST, SIGNATURE = "stage", "stages", "stage-signature"
_LEVEL = 3
_PIECE = 1 << 20
_LARGEST_NOTE = 16 << 20  # bytes of a snapshot's JSON, or of a list
_LARGEST_SIGNATURE = 1 << 18  # bytes
_NOTE = ("source", "shell", "lines")
_PIN = "@sha256:"


class Remote:
    """One place of snapshots. uri: SCHEME://HOST/NAME, with @sha256:DIGITS of a list to pin it."""

    def __init__(self, uri: str, options: Options, console: Console) -> None:
        self._uri, at, digits = uri.partition(_PIN)
        self._pin = at + digits
        self._options, self._console = options, console
        self._listed: Mapping[str, str] | None = None
        self._fails = False
        self._carrier: Carrier = transports.find(transports.place(self._uri).scheme)

    def bring(self, snapshot: Snapshot) -> bool:
        """Fetch a snapshot into the cache; return whether the place had it. Warns of failures."""
        if self._fails:
            return False
        try:
            place = self._place(snapshot.key)
            digest = self._carrier.digest(place, self._console) if place else ""
            if not digest:
                return False
            fetched = self._carrier.get(self._at(f"@{digest}"), self._console)
            is_whole = self._is_trusted(fetched.sha256, digest, snapshot) and _unpack(
                fetched.path, snapshot, self._console
            )
            # Its content is in the cache now; packed it would take up room there a second time.
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
                with store.opened(snapshot.key) as entry:
                    if entry and not entry.onto:  # its image is the whole tree
                        digests[entry.key] = self._push(entry)
        if digests:
            text = json.dumps(digests, sort_keys=True).encode()
            with workspace.scratch_directory() as work:
                (work / LIST).write_bytes(text)
                digest = self._put(work / LIST, LIST, f"list-{[*digests][-1]}", {})
            self._console.line(f"{len(digests)} stages are in {self._uri}@{digest}")

    def _is_trusted(self, sha256: str, digest: str, snapshot: Snapshot) -> bool:
        """Whether one of --cache-signers signed a packed file; warns when none did."""
        lists = self._options.cache_signers
        if not lists:
            return True
        place, why = self._at(f":{stage_signatures.tag(digest)}"), "nobody signed it"
        if self._carrier.digest(place, self._console):
            signature = self._carrier.get(place, self._console)
            why = "its signature is too long"
            if signature.size <= _LARGEST_SIGNATURE:
                why = stage_signatures.complaint(signature.path.read_bytes(), sha256, lists)
        if why:
            self._console.warn(f"{snapshot.name} is not taken from {self._uri}: {why}")
        return not why

    def _push(self, entry: Entry) -> str:
        # Even where its tag exists, which may be of somebody else's file. A registry that has the
        # bytes is not sent them again.
        about = {"singbuild.stage": entry.name, "singbuild.recipe": Path(entry.recipe).name}
        with workspace.scratch_directory() as work:
            packed, signature = work / STAGE, work / SIGNATURE
            _pack(entry, packed)
            digest = self._put(packed, STAGE, entry.key, about)
            if self._options.cache_key:
                text = stage_signatures.text(store.digest(packed), self._options.cache_key)
                signature.write_bytes(text)
                self._put(signature, SIGNATURE, stage_signatures.tag(digest), {})
            return digest

    def _put(self, file: Path, kind: str, tag: str, about: Mapping[str, str]) -> str:
        return self._carrier.put(file, kind, self._at(f":{tag}"), about, tag, self._console)

    def _at(self, ending: str) -> Place:
        place = Place(*self._uri.split("://"))
        return Place(place.scheme, place.name + ending)

    def _place(self, key: str) -> Place | None:
        """Return where a snapshot is; None where the list that is pinned has none."""
        if not self._pin:
            return self._at(f":{key}")
        if self._listed is None:
            self._listed = _read_list(self._carrier, self._at(self._pin), self._console)
        digest = self._listed.get(key)
        return self._at(f"@{digest}") if digest else None


def take(options: Options, tree: TreePlan, earlier: Sequence[TreePlan], console: Console) -> None:
    """Fetch snapshots of a build's trees into the cache; of earlier stages only if needed."""
    places = [Remote(uri, options, console) for uri in options.cache_from]
    for uri in options.open_caches:
        console.warn(
            f"whoever may write to {uri} decides what is in this image: pin a list, as "
            "--cache-to prints it, or name whose stages are taken: --cache-signers FILE"
        )
    if places and not _bring(tree, places):
        for each in earlier:
            _bring(each, places)


def share(options: Options, plans: Sequence[TreePlan], console: Console) -> None:
    """Push the snapshots of a build's trees; a failure costs a warning: the image is complete."""
    for uri in options.cache_to:
        try:
            Remote(uri, options, console).send(plans)
        except SingbuildError as error:
            console.warn(f"the stages are not all in {uri}: {error}")


def _bring(filling: TreePlan, places: Sequence[Remote]) -> bool:
    """Fetch the latest snapshot of a tree that any place has, unless the cache has it already.

    Return whether it is that of the finished image.
    """
    for name in reversed([*filling.snapshots]):
        snapshot = filling.snapshots[name]
        if store.exists(snapshot) or any(each.bring(snapshot) for each in places):
            return snapshot.name == [*filling.snapshots][-1]
    return False


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
    note = {"key": entry.key, "sha256": entry.sha256} | {
        name: getattr(entry, name) for name in _NOTE
    }
    packer = zstd.ZstdCompressor(level=_LEVEL)
    with file.open("wb") as target, entry.image.open("rb") as image:
        target.write(packer.compress(json.dumps(note, sort_keys=True).encode() + b"\n"))
        while piece := image.read(_PIECE):
            target.write(packer.compress(piece))
        target.write(packer.flush())


def _unpack(file: Path, snapshot: Snapshot, console: Console) -> bool:
    """Store a packed snapshot in the cache; return whether it was. Raises SourceError."""
    with file.open("rb") as packed:
        pieces = inflated(iter(lambda: packed.read(_PIECE), b""), "zstd")
        note, rest = _note(pieces, file)
        if note["key"] != snapshot.key:
            raise SourceError(f"{file}: is another stage than its name says")

        def write(part: Path) -> str:
            with part.open("wb") as image:
                for piece in itertools.chain((rest,), pieces):
                    if piece.strip(b"\0"):
                        image.write(piece)
                    else:
                        image.seek(len(piece), 1)  # a hole
                image.truncate(image.tell())
            digest = store.digest(part)
            if digest != note["sha256"]:
                raise SourceError(f"{file}: has the wrong SHA-256")
            return digest

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
    shapes = {"key": str, "sha256": str, "source": dict, "shell": str | None, "lines": list}
    is_note = newline and isinstance(note, dict) and note.keys() == shapes.keys()
    if is_note and all(isinstance(note[name], shape) for name, shape in shapes.items()):
        return note, rest
    raise SourceError(f"{file}: is no stage of a build", remedy="Name another --cache-from.")
