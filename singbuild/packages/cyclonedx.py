"""The bill of materials as CycloneDX 1.6 in JSON, the same bytes for the same packages.

No clock and no chance, as in ``spdx``. Field names are those of the specification's JSON schema,
bom-1.6.schema.json.
"""

from __future__ import annotations

import json
import re
from typing import Any

from singbuild import __version__
from singbuild.file_tree import written
from singbuild.packages.databases import software
from singbuild.packages.licences import declared
from singbuild.packages.package import Package, Tree, distribution
from singbuild.packages.spdx import namespace

_IMAGE = "image"
# The schema wants an IRI: of what people write as a homepage, that which surely is one.
_WEB = re.compile(r"https?://[A-Za-z0-9.-]+(:\d+)?(/[\w.~/+&=?-]*)?", re.ASCII)

Json = dict[str, Any]


def bill(tree: Tree, created: int) -> str:
    """Return the bill of materials of a tree, as JSON text. created: seconds since 1970.

    Raises ImageError for a damaged package database.
    """
    installed = software(tree, licences=True)
    items = [_component(each, number) for number, each in enumerate(installed.packages, 1)]
    name = distribution(tree) or "image"
    body: Json = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": written(created),
            "tools": {
                "components": [{"type": "application", "name": "singbuild", "version": __version__}]
            },
            "component": {"type": "container", "bom-ref": _IMAGE, "name": name},
        },
        "components": items,
        "dependencies": [{"ref": _IMAGE, "dependsOn": [item["bom-ref"] for item in items]}],
    }
    if installed.notes:
        notes = [{"name": "singbuild:note", "value": each} for each in installed.notes]
        body["metadata"]["properties"] = notes
    body["serialNumber"] = namespace(body)
    return json.dumps(body, indent=2, ensure_ascii=True) + "\n"


def _component(package: Package, number: int) -> Json:
    item: Json = {
        "type": "library",
        "bom-ref": f"{package.kind}-{number}",
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
        "properties": [{"name": "singbuild:database", "value": f"/{package.database}"}],
    }
    if package.licence:
        item["licenses"] = [_licence(package.licence)]
    if supplier := package.supplier.partition("<")[0].strip():
        item["supplier"] = {"name": supplier}
    if _WEB.fullmatch(package.homepage):
        item["externalReferences"] = [{"type": "website", "url": package.homepage}]
    # They are not of the package's file, which CycloneDX's hashes would be.
    item["properties"] += [
        {"name": f"singbuild:{what}", "value": digest} for what, digest in package.digests
    ]
    return item


def _licence(text: str) -> Json:
    """Return a licence: an expression of SPDX where all its names are known there, or its text."""
    licence = declared(text)
    if licence.references:
        return {"license": {"name": text}}
    return {"expression": licence.expression}
