"""Image files in registries, as ORAS artifacts: oras://HOST/NAME:TAG.

One layer is the file: SIF as Singularity and Apptainer push it, squashfs, ext3. A type of our own
tells ext3 apart, for which nobody has one. What a hook needs it imports itself: requests is
imported while a file's digest is computed, and who pushes needs nothing that brings an image.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singbuild import RemoteSignature, Source, SourceError, Transport, hookimpl
from singbuild_docker import manifest
from singbuild_docker.file_digest import FileDigest
from singbuild_docker.reference import is_insecure, named

if TYPE_CHECKING:
    from singbuild.download import Fetched

# What Apptainer's client gives: an empty object, of a type by which a registry shows what it is.
_CONFIG = "application/vnd.sylabs.sif.config.v1+json"
_TITLE = "org.opencontainers.image.title"


@hookimpl
def singbuild_transport() -> Transport:
    """Files, of three kinds."""
    return Transport("an image file in a registry: oras://HOST/NAME:TAG")


@hookimpl
def singbuild_get(source: Source) -> Fetched:
    """Fetch the artifact's one layer. Raises SourceError."""
    return fetched(source)[1]


@hookimpl
def singbuild_digest(source: Source) -> str:
    """Return the manifest's digest, "" if there is none. Raises SourceError."""
    from singbuild.download import NotFoundError
    from singbuild_docker.image import Store
    from singbuild_docker.registry import Registry

    image = named(source.keywords)
    store, insecure = Store(source.cache, source.report), is_insecure(source.keywords)
    try:
        return Registry(image, store, insecure=insecure).manifest_for(source.arch)[0]
    except SourceError as error:
        if isinstance(error.__cause__, NotFoundError):
            return ""
        raise


@hookimpl
def singbuild_put(
    image: Path, kind: str, source: Source, annotations: Mapping[str, str], title: str
) -> str:
    """Push a file as an artifact; return the manifest's digest. Raises SourceError."""
    types = {name: media_type for media_type, name in reversed(manifest.FILES.items())}
    if kind not in types:
        raise SourceError(
            f"a {kind} cannot be pushed to oras://",
            why=f"There are types for {', '.join(sorted(types))}.",
            remedy="Convert it first: singbuild convert IMAGE NEW.sif",
        )
    reference, insecure = named(source.keywords), is_insecure(source.keywords)
    digest = FileDigest(image)
    from singbuild_docker.upload import EMPTY, OCI_MANIFEST, Upload, digest_of

    upload = Upload(reference, source.report, insecure=insecure)
    config = {"mediaType": _CONFIG, "digest": upload.content(EMPTY), "size": len(EMPTY)}
    upload.file_beside(digest)
    sha256, size = digest.result(), image.stat().st_size
    layer = {"mediaType": types[kind], "digest": f"sha256:{sha256}", "size": size}
    text = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config,
        "layers": [{**layer, "annotations": {_TITLE: title}}],
        "annotations": dict(annotations),
    }
    content = json.dumps(text, sort_keys=True).encode()
    upload.manifest(content, OCI_MANIFEST, reference.tag or "latest")
    return digest_of(content)


@hookimpl
def singbuild_attach(source: Source, digest: str, kind: str, content: bytes) -> str:
    """Push a document as a referrer of the artifact; return its digest. Raises SourceError."""
    from singbuild_docker.upload import Upload

    reference, insecure = named(source.keywords), is_insecure(source.keywords)
    upload = Upload(reference, source.report, insecure=insecure)
    return upload.attach(digest, kind, content)


@hookimpl
def singbuild_signer(source: Source, key: Path) -> Callable[[str, Mapping[str, Any]], str]:
    """Return what signs as cosign does, with a key that can be used. SourceError, HostError."""
    from singbuild_docker.keys import private_key
    from singbuild_docker.upload import Upload

    private = private_key(key)
    reference, insecure = named(source.keywords), is_insecure(source.keywords)
    upload = Upload(reference, source.report, insecure=insecure)
    return lambda digest, predicates: upload.sign(digest, private, predicates)


@hookimpl
def singbuild_signatures(source: Source) -> tuple[str, Sequence[RemoteSignature]]:
    """Return the manifest's digest, and what cosign's signatures of it say. SourceError."""
    from singbuild_docker.image import Store
    from singbuild_docker.registry import Registry

    image = named(source.keywords)
    store = Store(source.cache, source.report)
    registry = Registry(image, store, insecure=is_insecure(source.keywords))
    digest = registry.manifest_for(source.arch)[0]
    return digest, registry.all_signatures(digest)


def fetched(source: Source) -> tuple[str, Fetched]:
    """Return the manifest's digest, and the file."""
    from singbuild_docker.image import Store
    from singbuild_docker.registry import Registry
    from singbuild_docker.source import pinned_digest

    image = named(source.keywords)
    store, pin = Store(source.cache, source.report), pinned_digest(source, image)
    registry = Registry(image, store, insecure=is_insecure(source.keywords), pinned=pin)
    manifest_digest, image_manifest = registry.manifest_for(source.arch)
    layer = manifest.image_file(image_manifest, str(image))
    return manifest_digest, registry.blob(layer.digest, layer.size, source.report)
