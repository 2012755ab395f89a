"""``push``: an image goes to a registry, as its file or as a container image of layers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from singbuild import workspace
from singbuild.contract import Reporter
from singbuild.errors import SourceError, UsageError
from singbuild.file_tree import FileTree
from singbuild.formats import loading as formats
from singbuild.images import containers, inspection, provenance, stage_layers
from singbuild.transports import loading as transports
from singbuild.transports.loading import Carrier, Place

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
    kind = formats.kind_of(image).name
    signer = carrier.signer(place, key, report) if key else None
    predicates: dict[str, Any] = {}
    with formats.opened(image) as tree:
        tree.check_clean()
        annotations = _annotations(tree)
        text = inspection.bill(tree).encode() if bill and carrier.can_attach else b""
        if signer:
            predicates = _predicates(tree, text)
        if carrier.transport.layers:
            trees = _stages(tree, report) if by_stage else contextlib.nullcontext(())
            with trees as stages:
                digest = _put_layers(tree, stages, carrier, place, annotations, packing, report)
        elif by_stage:
            raise UsageError(f"{place.scheme}:// takes a file, which has no layers of stages")
        else:
            digest = carrier.put(image, kind, place, annotations, image.name, report)
    if signer:
        signer(digest, predicates)
    if text:
        try:
            carrier.attach(place, digest, _BILL, text, report)
        except SourceError as error:
            report.warn(f"the bill of materials stays here: {error.what}: {error.why}")
    return digest


def _predicates(tree: FileTree, bill: bytes) -> dict[str, Any]:
    """Return what is attested of an image: its provenance, if it has one, and what is in it."""
    predicates: dict[str, Any] = {}
    if inspection.lock(tree):
        predicates[provenance.PREDICATE] = provenance.predicate(tree)
    if bill:
        predicates[_BILL_PREDICATE] = json.loads(bill)
        predicates[_CYCLONEDX_PREDICATE] = json.loads(inspection.cyclonedx_bill(tree))
    return predicates


@contextlib.contextmanager
def _stages(tree: FileTree, report: Reporter) -> Iterator[Sequence[FileTree]]:
    """Yield the trees of the stages of an image's build that the cache has, oldest first."""
    with contextlib.ExitStack() as stack:
        stages = stage_layers.stages(tree.facts.digest or "", stack)
        if not stages:
            report.warn("the cache has no stage of this image's build: it is sent as one layer")
        yield [stack.enter_context(formats.opened(each.image)) for each in stages]


def _put_layers(
    tree: FileTree,
    stages: Sequence[FileTree],
    carrier: Carrier,
    place: Place,
    annotations: Mapping[str, str],
    packing: str,
    report: Reporter,
) -> str:
    if warning := containers.whiteout_warning(tree):
        report.warn(warning)
    with workspace.scratch_directory() as work:
        layout = work / "layout"
        layout.mkdir()
        containers.write_layout(tree, layout, packing, annotations, stages)
        return carrier.put(layout, "oci", place, annotations, place.name, report)


def _annotations(tree: FileTree) -> dict[str, str]:
    """Return the image's labels, and its date: OCI image specification, "annotations.md"."""
    time = datetime.fromtimestamp(tree.newest(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    labels = inspection.labels(tree) or {}
    return {"org.opencontainers.image.created": time} | {
        str(name): str(value) for name, value in labels.items()
    }
