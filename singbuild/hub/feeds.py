"""What other programs read of a collection: sizes as CSV, commits as a feed, keys as a script."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import escape

from singbuild.console.events import printable
from singbuild.hub.collection import Collection

_ENTRIES = 50
_TAGS = 50  # of an entry


def day(seconds: int) -> str:
    """Return the date of a moment."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def moment(seconds: int) -> str:
    """Return a moment as RFC 3339 has it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sizes(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the sizes of images as CSV."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["tag", "bytes"])
    lines.writerows([row["tag"], row["size"]] for row in rows)
    return text.getvalue()


def atom(subject: Collection, url: str) -> str:
    """Return the newest commits as an Atom feed (RFC 4287)."""
    base = f"{url or 'urn:singbuild'}/{subject.name}"
    entries = [
        f"<entry><id>{escape(base)}/{each.id}</id><title>{escape(printable(each.subject))}</title>"
        f"<updated>{moment(each.time)}</updated>"
        f'<link href="index.html"/><summary>{escape(_named(each.builds))}</summary></entry>'
        for each in subject.commits[::-1][:_ENTRIES]
    ]
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">'
        f"<id>{escape(base)}</id><title>{escape(subject.name)}</title>"
        f"<author><name>{escape(subject.name)}</name></author>"
        f"<updated>{moment(subject.commits[-1].time)}</updated>{''.join(entries)}</feed>\n"
    )


def _named(builds: Iterable[str]) -> str:
    """Return the first tags, and how many more there are."""
    tags = [*builds]
    more = [f"and {len(tags) - _TAGS} more"] if len(tags) > _TAGS else []
    return ", ".join([*tags[:_TAGS], *more])


def script(name: str, values: Any) -> str:
    """Return a script that gives values to the pages, from file:// too; see hub.js."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return f"hubData({_as_script(json.dumps(name))},{_as_script(text)});\n"


def _as_script(text: str) -> str:
    """Return JSON so that it cannot end the element of a script that it might stand in."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def keys(subject: Collection) -> dict[str, str]:
    """Return the key of each build with an image: by ``TAG``, and by ``TAG@COMMIT``."""
    by_commit: dict[str, str] = {}
    for tag in tags(subject):
        for entry, build in subject.steps(tag):
            if build.status == "built":
                by_commit[f"{tag}@{short(entry.id)}"] = build.key
    newest = subject.commits[-1].builds
    return by_commit | {tag: build.key for tag, build in newest.items() if build.status == "built"}


def tags(subject: Collection) -> Sequence[str]:
    """Return all tags that a collection has had, sorted."""
    return sorted({tag for entry in subject.commits for tag in entry.builds})


def short(commit: str) -> str:
    """Return a commit's id as pages show it."""
    return commit[:12]
