"""An image goes to a registry as a container image: packed as an OCI layout, then sent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from singbuild import workspace
from singbuild.contract import Reporter
from singbuild.file_tree import FileTree
from singbuild.formats import loading as formats
from singbuild.images import containers, stage_layers
from singbuild.transports.loading import Carrier, Place


def put(
    tree: FileTree,
    carrier: Carrier,
    place: Place,
    annotations: Mapping[str, str],
    packing: str,
    report: Reporter,
    *,
    by_stage: bool,
) -> str:
    """Pack a tree into a layout and send that; return the digest that it has there.

    The parameters are those of push.push. Raises SourceError, DamagedImage.
    """
    if warning := containers.whiteout_warning(tree):
        report.warn(warning)
    trees = _stages(tree, report) if by_stage else contextlib.nullcontext(())
    with trees as stages, workspace.scratch_directory() as work:
        layout = work / "layout"
        layout.mkdir()
        containers.write_layout(tree, layout, packing, annotations, stages)
        return carrier.put(layout, "oci", place, annotations, place.name, report)


@contextlib.contextmanager
def _stages(tree: FileTree, report: Reporter) -> Iterator[Sequence[FileTree]]:
    """Yield the trees of the stages of an image's build that the cache has, oldest first."""
    with contextlib.ExitStack() as stack:
        stages = stage_layers.stages(tree.facts.digest or "", stack)
        if not stages:
            report.warn("the cache has no stage of this image's build: it is sent as one layer")
        yield [stack.enter_context(formats.opened(each.image)) for each in stages]
