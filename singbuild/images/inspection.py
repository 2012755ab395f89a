"""What an image says of itself, and what its superblock and databases add.

Reads the file, mounts nothing, executes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from singbuild.file_tree import FileTree
from singbuild.images import parts
from singbuild.packages import cyclonedx, databases, package, spdx
from singbuild.packages.tree import ImageTree
from singbuild.plan import lock as locks


def bill(image: FileTree) -> str:
    """Return the bill of materials of what is installed now: SPDX 2.3, JSON text."""
    return spdx.bill(ImageTree(image), image.newest())


def cyclonedx_bill(image: FileTree) -> str:
    """Return the same in another form: CycloneDX 1.6, JSON text."""
    return cyclonedx.bill(ImageTree(image), image.newest())


def lock(image: FileTree) -> dict[str, Any]:
    """Return what an image's lock says, every value as text; nothing where there is none."""
    return _lock(parts.text(image, "lock"))


def summary(image: FileTree) -> dict[str, Any]:
    """Return all that is known, as plain values; what an image does not have is None."""
    software = databases.software(ImageTree(image))
    facts = image.facts
    texts = {name: parts.text(image, name) for name in parts.PARTS}
    lock_values = _lock(texts["lock"])
    return {
        "version": 1,
        "image": str(image.path),
        "kind": facts.kind,
        "offset": facts.offset,
        "size": facts.size,
        "used": facts.used,
        "uuid": facts.uuid,
        "digest": facts.digest,
        "epoch": facts.created or None,
        "journal_pending": facts.dirty,
        "system": _system(image),
        "backend": _backend(lock_values, texts["recipe"]),
        "labels": parts.labels(image),
        **{name: texts[name] for name in parts.PARTS if name != "labels"},
        "packages": [
            {
                "kind": p.kind,
                "name": p.name,
                "version": p.version,
                "arch": p.arch,
                "purl": p.purl,
                "size": p.size,
            }
            for p in software.packages
        ],
        "notes": [*facts.notes, *software.notes],
    }


def described(facts: Mapping[str, Any]) -> str:
    """Return a summary as lines for people, every value on printable lines."""
    image = facts["image"]
    word = image if "/" in image else f"./{image}"
    lines = [package.line(image)]
    lines += [f"  {name:10} {package.line(text)}" for name, text in _rows(facts)]
    for title, text in (("Labels", _label_lines(facts)), ("Recipe", _head(facts["recipe"]))):
        lines += [f"  {title}", *(f"    {package.line(each)}" for each in text)] if text else []
    lines += [
        "  Run",
        f"    {word} ARGUMENTS" if facts["runscript"] else f"    singrun shell {word}",
    ]
    lines += [f"    singrun exec {word} COMMAND"]
    return "\n".join(lines) + "\n"


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kinds = Counter(each["kind"] for each in facts["packages"])
    backend = facts["backend"] or {}
    yield "Kind", facts["kind"]
    yield "Size", f"{_mebibytes(facts['size'])}, of which {_mebibytes(facts['used'])} are used"
    yield "Digest", facts["digest"] or "none recorded"
    yield "System", facts["system"] or "unknown (no os-release)"
    yield "Backend", " ".join(backend.values()) or "unknown"
    yield "Packages", ", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "none known"
    if signatures := facts.get("signatures"):
        numbers = ", ".join(f"{count} saying {claim!r}" for claim, count in signatures.items())
        yield "Signatures", f"{numbers}; singbuild verify checks them"
    for note in facts["notes"]:
        yield "", note
    missing = [parts.PARTS[name].title for name in parts.PARTS if not facts[name]]
    if missing:
        yield "Without", ", ".join(missing)
    if facts["journal_pending"]:
        yield "Journal", "holds changes that are not shown here; e2fsck brings them into place"


def _lock(text: str | None) -> dict[str, Any]:
    """Return what a lock says, every value as text: numbers may be long and dates impossible."""
    try:
        parsed = locks.parse(text or "", getattr(yaml, "CBaseLoader", yaml.BaseLoader))
    except (yaml.YAMLError, ValueError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _backend(lock_values: dict[str, Any], recipe: str | None) -> dict[str, str] | None:
    """Return the backend as the lock names it, else the recipe's Bootstrap word."""
    backend = lock_values.get("backend")
    if isinstance(backend, dict):
        names = ("name", "version")
        return {
            key: backend[key] for key in names if isinstance(backend.get(key), str) and backend[key]
        }
    for each in (recipe or "").splitlines():
        key, _, value = each.partition(":")
        if key.strip().lower() == "bootstrap" and value.strip():
            return {"name": value.strip()}
    return None


def _system(image: FileTree) -> str | None:
    tree = ImageTree(image)
    text = package.read(tree, b"etc/os-release") or package.read(tree, b"usr/lib/os-release") or b""
    for each in text.decode(errors="replace").splitlines():
        key, _, value = each.partition("=")
        if key == "PRETTY_NAME":
            return package.line(value.strip("\"'"))
    return None


def _label_lines(facts: Mapping[str, Any]) -> list[str]:
    return [f"{key}: {value}" for key, value in (facts["labels"] or {}).items()]


def _head(recipe: str | None) -> list[str]:
    lines = [each for each in (recipe or "").splitlines() if each.strip()]
    return [*lines[:5], *(["…"] if len(lines) > 5 else [])]


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
