"""Bootstrap: https, library, shub. A root file system from an image's file on a web server.

    https      the URL is the file's own
    library    an answer in JSON names the file's digest: Singularity's "library" of images
    shub       an answer in JSON names the file's URL: the protocol of Singularity Hub

No server is known to us beforehand: a name says which one is meant, or the user's settings do.
"""

from __future__ import annotations

from singbuild import Keyword, Needs, Pins, Rootfs, Source, hookimpl
from singbuild.download import digest
from singbuild_web import transport


@hookimpl
def singbuild_needs() -> Needs:
    """From is all that a recipe must say."""
    return Needs(
        keywords=(
            Keyword(
                "From",
                "https: HOST/PATH; library: HOST/ENTITY/COLLECTION/NAME:TAG; "
                "shub: HOST/USER/REPOSITORY:TAG",
                required=True,
            ),
            Keyword("Library", "the library's URL when From names none"),
            Keyword("SHA256", "the file's digest, which is checked"),
        ),
    )


@hookimpl
def singbuild_resolve(source: Source) -> Pins:
    """Fetch the file: its digest is the pin."""
    name = f"{source.bootstrap}://{source.keywords['From'].strip()}"
    locked = str(source.locked.get("sha256", "")) if source.locked.get("image") == name else ""
    if locked and (source.cache / locked).is_file() and digest(source.cache / locked) == locked:
        return {"image": name, "sha256": locked}
    return {"image": name, "sha256": transport.singbuild_get(source).sha256}


@hookimpl
def singbuild_bootstrap(source: Source, pins: Pins, rootfs: Rootfs) -> bool:
    """Unpack the file's tree; what it says of itself holds where the recipe says nothing."""
    rootfs.unpack_image(source.cache / pins["sha256"], sha256=pins["sha256"])
    return True
