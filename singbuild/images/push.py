"""``push``: an image goes to a registry, as its file or as a container image of layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from singbuild.contract import Reporter
from singbuild.errors import SourceError, UsageError
from singbuild.file_tree import FileTree, written
from singbuild.formats import loading as formats
from singbuild.images import parts
from singbuild.transports import loading as transports

_BILL = "application/spdx+json"  # SPDX specification 2.3, "Formats"
_BILL_PREDICATE = "https://spdx.dev/Document"
_CYCLONEDX_PREDICATE = "https://cyclonedx.org/bom"  # as cosign calls it


def push(
    image: Path,
    uri: str,
    report: Reporter,
    *,
    packing: str,
    bill: bool,
    key: Path | None = None,
    by_stage: bool = False,
) -> str:
    """Send an image to the place that ``uri`` names; return its digest there.

    packing: of a container image's layer, a key of containers.PACKINGS; bill: whether its bill of
    materials goes with it, where the place takes one; key: of who signs it there; by_stage: a
    container image has a layer for each stage of its build that the cache has.
    Raises SourceError, UsageError, ImageError.
    """
    place = transports.place(uri)
    carrier = transports.find(place.scheme)
    kind = formats.kind_of(image)
    signer = carrier.signer(place, key, report) if key else None
    predicates: dict[str, Any] = {}
    with kind.open(image) as tree:
        tree.check_clean()
        annotations = _annotations(tree)
        text = _bill(tree) if bill and carrier.can_attach else b""
        if signer:
            predicates = _predicates(tree, text)
        if carrier.transport.layers:
            # What packs layers is half of the builder, which sending a file does without.
            from singbuild.images.layout import put

            digest = put(tree, carrier, place, annotations, packing, report, by_stage=by_stage)
        elif by_stage:
            raise UsageError(f"{place.scheme}:// takes a file, which has no layers of stages")
        else:
            digest = carrier.put(image, kind.name, place, annotations, image.name, report)
    if signer:
        signer(digest, predicates)
    if text:
        try:
            carrier.attach(place, digest, _BILL, text, report)
        except SourceError as error:
            report.warn(f"the bill of materials stays here: {error.what}: {error.why}")
    return digest


def _annotations(tree: FileTree) -> dict[str, str]:
    """Return the image's labels, and its date: OCI image specification, "annotations.md"."""
    labels = parts.labels(tree) or {}
    return {"org.opencontainers.image.created": written(tree.newest())} | {
        str(name): str(value) for name, value in labels.items()
    }


def _bill(tree: FileTree) -> bytes:
    """Return an image's bill of materials."""
    from singbuild.images import inspection

    return inspection.bill(tree).encode()


def _predicates(tree: FileTree, bill: bytes) -> dict[str, Any]:
    """Return what is attested of an image: its provenance, if it has one, and what is in it."""
    from singbuild.images import inspection, provenance

    predicates: dict[str, Any] = {}
    if inspection.lock(tree):
        predicates[provenance.PREDICATE] = provenance.predicate(tree)
    if bill:
        predicates[_BILL_PREDICATE] = json.loads(bill)
        predicates[_CYCLONEDX_PREDICATE] = json.loads(inspection.cyclonedx_bill(tree))
    return predicates
