"""Bootstrap: localimage. A root file system from an image: ext3, SIF, squashfs, a directory."""

from __future__ import annotations

from pathlib import Path

from singbuild import (
    Keyword,
    Needs,
    Pins,
    RecipeKeyError,
    Rootfs,
    Source,
    hookimpl,
    image_digest,
)


@hookimpl
def singbuild_needs() -> Needs:
    """One keyword, no host program."""
    return Needs(
        keywords=(
            Keyword(
                "From", "the path of an image: ext3, SIF, squashfs, or a directory", required=True
            ),
        )
    )


@hookimpl
def singbuild_resolve(source: Source) -> Pins:
    """Pin the image by its digest."""
    path = Path(source.keywords["From"])
    if not path.exists():
        raise RecipeKeyError(
            "From",
            f"there is no image {path}",
            why=f"Relative paths start at {Path.cwd()}.",
            remedy="Correct the path, or start singbuild in the directory that has it.",
        )
    return {"sha256": image_digest(path)}


@hookimpl
def singbuild_bootstrap(source: Source, pins: Pins, rootfs: Rootfs) -> bool:
    """Unpack the image's tree; what it says of itself holds where the recipe says nothing."""
    rootfs.unpack_image(Path(source.keywords["From"]), sha256=pins["sha256"])
    return True
