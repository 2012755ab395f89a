"""The files in which an image says what it is: labels, recipe, lock, record, scripts.

Knows the names that docs/image-format.md gives and those of Singularity 2.x, which had fewer; of
what they mean only what JSON tells.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from singbuild.errors import ImageError, SingbuildError
from singbuild.file_tree import DIRECTORY, REGULAR, Entry, FileTree

HOME = ".singularity.d"
_LARGEST = 16 << 20  # bytes of a part, be it of several files


@dataclass(frozen=True)
class Part:
    """One thing that an image may say of itself.

    title: for people. paths: where it is, ours first, then Singularity 2.x's.
    section: the recipe's, where there is one.
    """

    name: str
    title: str
    paths: tuple[str, ...]
    section: str = ""


PARTS = {
    part.name: part
    for part in (
        Part("labels", "labels", (f"{HOME}/labels.json",), "%labels"),
        Part("recipe", "recipe", (f"{HOME}/Singularity",)),
        Part("lock", "lock", (f"{HOME}/lock.yaml",)),
        Part("record", "build record", (f"{HOME}/build.json",)),
        Part("environment", "environment", (f"{HOME}/env", "environment"), "%environment"),
        Part("runscript", "runscript", (f"{HOME}/runscript", "singularity"), "%runscript"),
        Part("test", "test", (f"{HOME}/test", ".test"), "%test"),
        Part("help", "help text", (f"{HOME}/runscript.help",), "%help"),
    )
}


def part(image: FileTree, name: str) -> bytes:
    """Return one part as it stands in the image. name: a key of PARTS.

    Raises SingbuildError when the image does not have it.
    """
    row = PARTS[name]
    data = _read(image, row)
    if data is None:
        hint = f"Its recipe had no {row.section} section." if row.section else ""
        is_old = image.facts.kind.startswith("Singularity 2.x")
        old = "Singularity 2.x kept none in its images." if is_old else hint
        raise SingbuildError(f"{image.path} holds no {row.title}", why=old)
    return data


def text(image: FileTree, name: str) -> str | None:
    """Return one part as text; None when the image does not have it. name: a key of PARTS."""
    data = _read(image, PARTS[name])
    return None if data is None else data.decode(errors="replace")


def labels(image: FileTree) -> dict[str, str] | None:
    """Return an image's labels; None when there are none, or when they are no JSON object."""
    try:
        values = json.loads(text(image, "labels") or "null")
    # json calls itself for each "[", and an image's file may have any number of them.
    except (ValueError, RecursionError):
        return None
    return {str(k): str(v) for k, v in values.items()} if isinstance(values, dict) else None


def record(image: FileTree) -> dict[str, Any]:
    """Return the record of an image's build; nothing where there is none."""
    try:
        value = json.loads(text(image, "record") or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _read(image: FileTree, row: Part) -> bytes | None:
    for path in row.paths:
        entry = image.find(path)
        if entry is None:
            continue
        if entry.inode.kind == REGULAR:
            return image.read(entry, _LARGEST)
        if entry.inode.kind == DIRECTORY:
            return b"".join(_titled_files(image, entry))
    return None


def _titled_files(image: FileTree, directory: Entry) -> Iterator[bytes]:
    """Yield what files in a directory hold, behind their names. Raises ImageError."""
    room = _LARGEST
    for each in image.listed(directory):
        if each.inode.kind == REGULAR:
            text = _titled(each.path, image.read(each, room))
            room -= len(text)
            if room < 0:
                why = "Its files and their names have over 16 MiB."
                raise ImageError(f"{directory.shown} in {image.path} is too large", why=why)
            yield text


def _titled(path: bytes, text: bytes) -> bytes:
    end = b"" if text.endswith(b"\n") or not text else b"\n"
    return b"# /" + path + b"\n" + text + end
