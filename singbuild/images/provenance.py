"""Where an image comes from: SLSA's provenance as an in-toto statement, made of what it holds.

Recipe, lock, build record and package databases stand in every image; nothing is stored for this,
and of host and time nothing is said, so that equal images have equal statements. Sources:
in-toto.io/Statement/v1, slsa.dev/spec/v1.0/provenance.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from singbuild.errors import SingbuildError
from singbuild.file_tree import FileTree
from singbuild.images import inspection, parts
from singbuild.packages import databases
from singbuild.packages.package import Package
from singbuild.packages.tree import ImageTree

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
# docs/signatures.md, "What is in it, and where that comes from"
BUILD_TYPE = "urn:singbuild:build:1"
_BUILDER = "urn:singbuild:builder"
# Neither is the SHA-256 of a file: docs/image-format.md, docs/reproducibility.md.
_CONTENT, _TREE = "singbuildContentSha256", "singbuildTreeSha256"
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})", re.ASCII)
_OWN = ("sha256", "digest")  # keys under which pins say the digest of the very thing
_MOST = 100_000  # dependencies: hostile locks have any number

Json = dict[str, Any]


def statement(image: FileTree) -> str:
    """Return an image's provenance about its content, as JSON text. Raises SingbuildError."""
    if digest := image.facts.digest:
        about = {_CONTENT: digest.removeprefix("sha256:")}
    elif image.path.is_file():
        with image.path.open("rb") as file:
            about = {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    else:
        raise SingbuildError(
            f"{image.path} records no digest of its content",
            why="Provenance is about a content that nobody can exchange.",
            remedy="Make an image that does: singbuild convert DIRECTORY NEW.img",
        )
    body = {
        "_type": STATEMENT,
        "subject": [{"name": "content", "digest": about}],
        "predicateType": PREDICATE,
        "predicate": predicate(image),
    }
    return json.dumps(body, indent=2) + "\n"


def predicate(image: FileTree) -> Json:
    """Return SLSA's predicate: how an image was built, and of what. Raises SingbuildError."""
    lock = inspection.lock(image)
    if not lock:
        why = "It was not built by singbuild, or by a Singularity that kept no lock."
        raise SingbuildError(f"{image.path} does not say how it was built", why=why)
    record = parts.record(image)
    recipe = _table(lock, "recipe")
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "recipe": recipe.get("name", ""),
            "arguments": _table(lock, "arguments"),
            "arch": lock.get("arch", ""),
            "epoch": lock.get("epoch", ""),
            "free": record.get("free", 0),
            "host": record.get("host", []),
        },
        "internalParameters": {
            "backend": _table(lock, "backend"),
            "tools": _table(lock, "tools"),
            "writer": lock.get("writer", ""),
            "steps": record.get("steps", []),
        },
        "resolvedDependencies": [*_dependencies(image, lock)],
    }
    builder = {"id": _BUILDER, "version": {"singbuild": str(lock.get("singbuild", ""))}}
    return {"buildDefinition": definition, "runDetails": {"builder": builder}}


def _dependencies(image: FileTree, lock: Mapping[str, Any]) -> Iterator[Json]:
    """Yield the recipe, what %files and the backend took, of all stages, and each package."""
    recipe = _table(lock, "recipe")
    yield {"name": f"recipe {recipe.get('name', '')}", "digest": _sha256(recipe.get("sha256"))}
    inputs = [*_inputs(lock, "")]
    for name, stage in _table(lock, "stages").items():
        if isinstance(stage, dict):
            inputs += _inputs(stage, f"stage {name}: ")
    by_version = {
        (each["annotations"].get("name", each["name"].rpartition(".")[2]), version): each
        for each in inputs[:_MOST]
        if (version := each.get("annotations", {}).get("version"))
    }
    packages = list[Json]()
    for package in databases.software(ImageTree(image)).packages:
        pinned = by_version.get((package.name, package.version))
        if pinned and package.kind != "pypi":
            pinned["uri"] = package.purl
        else:
            packages.append(_package(package))
    yield from inputs[:_MOST]
    yield from packages


def _package(package: Package) -> Json:
    """Return an installed package; what its database hashed is not the package's file."""
    item: Json = {"name": package.name, "uri": package.purl}
    return item | ({"annotations": dict(package.digests)} if package.digests else {})


def _inputs(part: Mapping[str, Any], whose: str) -> Iterator[Json]:
    for name, digest in _table(part, "files").items():
        if match := _DIGEST.fullmatch(str(digest)):
            yield {"name": f"{whose}%files {name}", "digest": {_TREE: match[1]}}
    yield from _pinned(part.get("pins"), f"{whose}pins")


def _pinned(value: object, name: str) -> Iterator[Json]:
    """Yield what a backend's pins name with a digest, whatever their keys are."""
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from _pinned(each, f"{name}.{number}")
    if not isinstance(value, dict):
        return
    digests = {key: digest for key, text in value.items() if (digest := _sha256(text))}
    about = {k: text for k, text in value.items() if isinstance(text, str) and k not in digests}
    for key, digest in digests.items():
        if key in _OWN:
            yield {"name": name, "digest": digest, "annotations": about}
        else:
            yield {"name": f"{name}.{key}", "digest": digest}
    for key, each in value.items():
        yield from _pinned(each, f"{name}.{key}")


def _sha256(value: object) -> dict[str, str]:
    """Return a digest as in-toto writes it, nothing for what is none."""
    match = _DIGEST.fullmatch(value) if isinstance(value, str) else None
    return {"sha256": match[1]} if match else {}


def _table(lock: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = lock.get(key)
    return value if isinstance(value, dict) else {}
