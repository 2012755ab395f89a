"""The bill of materials: SPDX 2.3 as JSON, the same bytes for the same packages.

No clock and no chance: the time is given, and the document's namespace is cut
from the SHA-256 of all else that it says. Field names are those of the
specification's JSON schema, version 2.3.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from singbuild import __version__
from singbuild.file_tree import written
from singbuild.packages.databases import software
from singbuild.packages.licences import declared
from singbuild.packages.package import Package, Software, Tree, distribution, line, read

_ROOT = "SPDXRef-Image"
_UNKNOWN = "NOASSERTION"
_RECORD = b".singularity.d/build.json"
_MOST_STAGES = 1000
_MANAGERS = {"deb": "dpkg", "rpm": "rpm", "apk": "apk", "pypi": "Python metadata"}

Json = dict[str, Any]


def bill(tree: Tree, created: int) -> str:
    """Return the bill of materials of a tree, as JSON text. created: seconds since 1970.

    Raises ImageError for a damaged package database.
    """
    name = distribution(tree) or "image"
    return document(software(tree, licences=True), name, created, [*_stages(tree)])


def document(installed: Software, name: str, created: int, stages: Sequence[Json] = ()) -> str:
    """Return the bill of materials of a tree's software, as JSON text. stages: of the build."""
    items = [_package(package) for package in installed.packages]
    image = {
        "name": name,
        "SPDXID": _ROOT,
        "primaryPackagePurpose": "CONTAINER",
        **_nothing_known(),
    }
    body: Json = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "creationInfo": {
            "created": written(created),
            "creators": [f"Tool: singbuild-{__version__}"],
        },
        "documentDescribes": [_ROOT],
        "packages": [image, *items, *stages],
        "relationships": [*_relationships(items, stages)],
    }
    if installed.notes:
        body["comment"] = "\n".join(installed.notes)
    if extracted := [*_extracted(installed.packages)]:
        body["hasExtractedLicensingInfos"] = extracted
    body["documentNamespace"] = namespace(body)
    return json.dumps(body, indent=2, ensure_ascii=True) + "\n"


def namespace(body: Json) -> str:
    """Return a UUID, as a URN, that is cut from all else that a document says."""
    digest = bytearray(hashlib.sha256(json.dumps(body).encode()).digest()[:16])
    # RFC 9562, version 8: a UUID made in its maker's own way.
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return f"urn:uuid:{uuid.UUID(bytes=bytes(digest))}"


def _relationships(items: Sequence[Json], stages: Sequence[Json]) -> Iterator[Json]:
    yield _relationship("SPDXRef-DOCUMENT", "DESCRIBES", _ROOT)
    for item in items:
        yield _relationship(_ROOT, "CONTAINS", item["SPDXID"])
    for stage in stages:
        yield _relationship(stage["SPDXID"], "BUILD_DEPENDENCY_OF", _ROOT)


def _stages(tree: Tree) -> Iterator[Json]:
    """Yield the stages whose files were copied, as the record of the build has them."""
    try:
        record = json.loads(read(tree, _RECORD) or b"{}")
    except (ValueError, RecursionError):
        return
    stages = record.get("stages") if isinstance(record, dict) else None
    for number, stage in enumerate(stages[:_MOST_STAGES] if isinstance(stages, list) else ()):
        if isinstance(stage, dict):
            yield {
                "name": line(f"stage {stage.get('name')}"),
                "SPDXID": f"SPDXRef-Stage-{number}",
                "supplier": _UNKNOWN,
                **_nothing_known(),
                "sourceInfo": line(f"{stage.get('backend')}: {stage.get('source')}"),
            }


def _relationship(one: str, kind: str, other: str) -> Json:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _package(package: Package) -> Json:
    item: Json = {
        "name": package.name,
        "SPDXID": _identifier(package),
        "supplier": _supplier(package),
        **_nothing_known(),
        "licenseDeclared": declared(package.licence).expression if package.licence else _UNKNOWN,
        "sourceInfo": f"{_MANAGERS[package.kind]}: /{package.database}",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": package.purl,
            }
        ],
    }
    if package.version:
        item["versionInfo"] = package.version
    if re.match(r"https?://[^\s]+$", package.homepage):
        item["homepage"] = package.homepage
    if package.digests:
        # They are not of the package's file, which SPDX's checksums would be.
        item["comment"] = "; ".join(f"{what}: {digest}" for what, digest in package.digests)
    return item


def _nothing_known() -> Json:
    return {
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": _UNKNOWN,
        "copyrightText": _UNKNOWN,
    }


def _identifier(package: Package) -> str:
    """Return an identifier of letters, digits, dots and hyphens; a digest makes it unique."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{package.kind}-{package.name}")
    facts = json.dumps([package.name, package.version, package.arch, package.database])
    return f"SPDXRef-{readable}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def _supplier(package: Package) -> str:
    """Return a name, and an address in parentheses, as the specification's 7.5 writes it."""
    name, _, address = package.supplier.partition("<")
    name = re.sub(r"[()\s]+", " ", name).strip()
    address = address.partition(">")[0].strip()
    if not name:
        return _UNKNOWN
    kind = "Person" if package.kind in ("pypi", "apk") else "Organization"
    return (
        f"{kind}: {name} ({address})"
        if re.fullmatch(r"[^\s()]+@[^\s()]+", address)
        else f"{kind}: {name}"
    )


def _extracted(packages: Sequence[Package]) -> Iterator[Json]:
    references: dict[str, str] = {}
    for text in {package.licence for package in packages if package.licence}:
        references |= declared(text).references
    for name, text in sorted(references.items()):
        yield {"licenseId": name, "extractedText": text, "name": text[:80]}
