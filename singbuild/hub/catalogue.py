"""What a page must know of all other images: which have a label or a program, which are alike.

It stands in a temporary SQLite database, so that memory does not grow with the site. Each
collection has a ``summary.json.gz`` of what goes in there, which is made with its pages: bringing
one collection up to date reads those of the others, and none of their records.
"""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from singbuild.hub import contents
from singbuild.hub.collection import Collection
from singbuild.hub.site import Site, bounded

PLACES = 20
"""Images that the index names for a word; of more it says only how many they are."""
_WORDS = 20_000  # of one image
_INDEXED = 64  # of a sketch's digests, by which images that are alike are looked for
_HOLDERS = 64  # images that are looked at for a digest: what all have tells little
_COMPARED = 24  # images whose whole sketches are compared
_LONGEST = 100  # letters of a word


def summarise(site: Site, subject: Collection) -> dict[str, Any]:
    """Write what the site must know of a collection's newest images; return it."""
    images: dict[str, Any] = {}
    words: dict[str, dict[str, list[Any]]] = defaultdict(dict)
    newest = subject.commits[-1]
    for tag, build in newest.builds.items():
        record = site.record(build.key)
        facts = record.get("shown", {})
        images[tag] = {
            "status": record["status"],
            "size": record.get("image", {}).get("size", 0),
            "labels": sorted(map(_storable, facts.get("labels", {}))),
            "sketch": record.get("sketch", []),
        }
        for word, kind in sorted(set(_words(subject.name, tag, record)))[:_WORDS]:
            count = words[word].setdefault(kind, [0, []])
            count[0] += 1
            if len(count[1]) < PLACES:
                count[1].append(tag)
    summary = {"version": 1, "time": newest.time, "images": images, "words": words}
    text = json.dumps(summary, sort_keys=True, separators=(",", ":"))
    site.write(f"{subject.name}/summary.json.gz", gzip.compress(text.encode(), mtime=0))
    return summary


def summary(site: Site, name: str) -> dict[str, Any]:
    """Return what ``summarise`` wrote."""
    with gzip.open(site.path / name / "summary.json.gz") as file:
        content: dict[str, Any] = json.loads(bounded(file))
    return content


def _words(name: str, tag: str, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the words by which an image is found, each with its kind."""
    facts = record.get("shown", {})
    pairs = [(part, "image") for part in (tag, *name.split("/"))]
    pairs += [(f"{label}={value}", "label") for label, value in facts.get("labels", {}).items()]
    pairs += [(package["name"], "package") for package in facts.get("packages", [])]
    pairs += [(program, "program") for program in record.get("programs", [])]
    for word, kind in pairs:
        small = _storable(" ".join(word.lower().split())[:_LONGEST])
        if len(small) > 1:
            yield small, kind


def _storable(text: str) -> str:
    """Return text without halves of surrogates, which an image's JSON may have, and UTF-8 not."""
    return text.encode(errors="replace").decode()


def shard_of(word: str) -> str:
    """Return the index's part for a word: its first two letters, or five from "lib" on."""
    start = word[:5] if word.startswith("lib") else word[:2]
    return re.sub("[^a-z0-9]", "_", start)


class Catalogue:
    """All images of a site. path: of a file that is not there yet."""

    def __init__(self, path: Path, site: Site) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        # Scratch: after a crash it is made anew, so there is nothing to journal or to sync.
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16000;"
            "CREATE TABLE images (id INTEGER PRIMARY KEY, name, tag, sketch, UNIQUE (name, tag));"
            "CREATE TABLE digests (digest, image, PRIMARY KEY (digest, image)) WITHOUT ROWID;"
            "CREATE TABLE labels (label PRIMARY KEY, count) WITHOUT ROWID;"
            "CREATE TABLE words (shard, word, kind, name, count, tags,"
            " PRIMARY KEY (shard, word, kind, name)) WITHOUT ROWID; BEGIN;"
        )
        self.collections: list[dict[str, Any]] = []
        for name in site.collections():
            self._add(name, summary(site, name))

    def close(self) -> None:
        """Close the database; the file stays."""
        self._database.close()

    def _add(self, name: str, content: Mapping[str, Any]) -> None:
        images = content["images"]
        built = [each for each in images.values() if each["status"] == "built"]
        self.collections.append(
            {
                "name": name,
                "built": len(built),
                "failed": len(images) - len(built),
                "size": sum(each["size"] for each in built),
                "time": content["time"],
            }
        )
        run = self._database.execute
        many = self._database.executemany
        for tag, each in images.items():
            sketch = " ".join(each["sketch"])
            row = run("INSERT INTO images VALUES (NULL, ?, ?, ?)", (name, tag, sketch)).lastrowid
            digests = [(digest, row) for digest in each["sketch"][:_INDEXED]]
            many("INSERT OR IGNORE INTO digests VALUES (?, ?)", digests)
        labels = Counter(label for each in images.values() for label in each["labels"])
        many(
            "INSERT INTO labels VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET count = count + excluded.count",
            labels.items(),
        )
        rows = (
            (shard_of(word), word, kind, name, count, json.dumps(tags))
            for word, kinds in content["words"].items()
            for kind, (count, tags) in kinds.items()
        )
        many("INSERT INTO words VALUES (?, ?, ?, ?, ?, ?)", rows)

    def others(self, labels: Iterable[str]) -> dict[str, int]:
        """Return how many other images have each of an image's labels."""
        query = "SELECT count FROM labels WHERE label = ?"
        run = self._database.execute
        rows = {label: run(query, (_storable(label),)).fetchone() for label in labels}
        return {label: row[0] - 1 if row else 0 for label, row in rows.items()}

    def neighbours(self, name: str, tag: str, most: int) -> list[dict[str, Any]]:
        """Return the images whose contents are most like one's, the nearest first.

        Looks at those that share rare contents with it; on a small site those are all.
        """
        run = self._database.execute
        query = "SELECT id, sketch FROM images WHERE name = ? AND tag = ?"
        row = run(query, (name, tag)).fetchone()
        if not row or not row[1]:
            return []
        own, sketch = row[0], row[1].split()
        shared: Counter[int] = Counter()
        for digest in sketch[:_INDEXED]:
            query = "SELECT image FROM digests WHERE digest = ? LIMIT ?"
            shared.update(image for (image,) in run(query, (digest, _HOLDERS)))
        del shared[own]
        nearest = sorted(shared, key=lambda image: (-shared[image], image))[:_COMPARED]
        shares = []
        for image in nearest:
            query = "SELECT name, tag, sketch FROM images WHERE id = ?"
            other_name, other_tag, other = run(query, (image,)).fetchone()
            share = contents.similarity(sketch, other.split())
            shares.append((-share, other_name, other_tag))
        return [
            {"name": other_name, "tag": other_tag, "percent": round(-share * 100)}
            for share, other_name, other_tag in sorted(shares)[:most]
        ]

    def shards(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the parts of the index of words: a name, and what its script holds.

        places: images; words: by word [kind, how many have it, numbers of the first places].
        """
        rows = self._database.execute("SELECT * FROM words ORDER BY shard, word, kind, name")
        shard, places, words = "", dict[str, int](), dict[str, list[Any]]()
        for row_shard, word, kind, name, count, tags in rows:
            if row_shard != shard:
                if words:
                    yield shard, {"places": [*places], "words": words}
                shard, places, words = row_shard, {}, {}
            kinds = words.setdefault(word, [])
            if not kinds or kinds[-1][0] != kind:
                kinds.append([kind, 0, []])
            kinds[-1][1] += count
            for tag in json.loads(tags)[: PLACES - len(kinds[-1][2])]:
                kinds[-1][2].append(places.setdefault(f"{name}:{tag}", len(places)))
        if words:
            yield shard, {"places": [*places], "words": words}
