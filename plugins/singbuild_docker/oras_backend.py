"""Bootstrap: oras. A root file system from an image's file in a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from singbuild import Keyword, Needs, Pins, Source, hookimpl
from singbuild_docker.oras import fetched
from singbuild_docker.reference import named

if TYPE_CHECKING:
    from singbuild import Rootfs


@hookimpl
def singbuild_needs() -> Needs:
    """From is all that a recipe must say."""
    return Needs(
        keywords=(
            Keyword("From", "the image: HOST/NAME:TAG or HOST/NAME@sha256:…", required=True),
            Keyword(
                "Insecure", "take plain http and any certificate from the registry", default="no"
            ),
        ),
    )


@hookimpl
def singbuild_resolve(source: Source) -> Pins:
    """Fetch the file: its digest is the pin."""
    manifest_digest, file = fetched(source)
    return {"image": str(named(source.keywords)), "digest": manifest_digest, "sha256": file.sha256}


@hookimpl
def singbuild_bootstrap(source: Source, pins: Pins, rootfs: Rootfs) -> bool:
    """Unpack the file's tree; what it says of itself holds where the recipe says nothing."""
    rootfs.unpack_image(source.cache / pins["sha256"], sha256=pins["sha256"])
    return True
