"""Manifests, indexes and configurations: JSON from strangers, checked and made into values.

Sources: OCI image specification, "manifest.md", "image-index.md" and "config.md"; Docker's
"Image Manifest Version 2, Schema 2". Nothing here fetches anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from singbuild import SourceError
from singbuild_docker.reference import DIGEST

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_DOCKER, _OCI = "application/vnd.docker.image.rootfs", "application/vnd.oci.image.layer"
LAYERS = {
    f"{_DOCKER}.diff.tar": "plain",
    f"{_DOCKER}.diff.tar.gzip": "gzip",
    f"{_DOCKER}.diff.tar.zstd": "zstd",
    f"{_DOCKER}.foreign.diff.tar.gzip": "gzip",
    f"{_OCI}.v1.tar": "plain",
    f"{_OCI}.v1.tar+gzip": "gzip",
    f"{_OCI}.v1.tar+zstd": "zstd",
    f"{_OCI}.nondistributable.v1.tar": "plain",
    f"{_OCI}.nondistributable.v1.tar+gzip": "gzip",
    f"{_OCI}.nondistributable.v1.tar+zstd": "zstd",
}
# An artifact of one layer that is the image's file: what ORAS carries. The second is how old
# versions of Singularity spelt the first.
FILES = {
    "application/vnd.sylabs.sif.layer.v1.sif": "sif",
    "appliciation/vnd.sylabs.sif.layer.tar": "sif",
    "application/vnd.sylabs.image.layer.v1.squashfs": "squashfs",
    "application/vnd.singbuild.image.layer.v1.ext3": "ext3",
    # Not images, but stages of builds, and lists of them: what --cache-to sends.
    "application/vnd.singbuild.stage.v1+zstd": "stage",
    "application/vnd.singbuild.stages.v1+json": "stages",
    "application/vnd.singbuild.stage-signature.v1": "stage-signature",
}
LARGEST = 4 << 20  # bytes of a manifest: what registries take
LARGEST_CONFIG = 8 << 20  # bytes of a configuration
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
MOST_LAYERS = 1000
# As `uname -m` says it: GOARCH, GOARM.
MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "loongarch64": ("loong64", ""),
}


@dataclass(frozen=True)
class Layer:
    """One layer. digest: of what is stored, size: its bytes ("" and 0: unknown);
    packing: gzip, zstd or plain, "" to find out; diff_id: digest of the tar archive itself.
    """  # noqa: D205 - fields

    digest: str
    size: int
    packing: str
    diff_id: str


@dataclass(frozen=True)
class Descriptor:
    """What one document says of another: OCI image specification, "descriptor.md"."""

    digest: str
    size: int
    media_type: str
    platform: Mapping[str, Any]


def document(content: bytes, whose: str) -> Mapping[str, Any]:
    """Return a JSON object. Raises SourceError for anything else."""
    try:
        value = json.loads(content)
    # json calls itself for each "[", and a stranger's text may have any number of them.
    except (ValueError, RecursionError) as error:
        raise _lies(whose, f"it is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise _lies(whose, "it is no JSON object")
    return value


def is_index(document: Mapping[str, Any], whose: str) -> bool:
    """Tell an index from a manifest. Raises SourceError for what is neither, or says both."""
    media_type = document.get("mediaType") or (INDEXES if "manifests" in document else MANIFESTS)[0]
    if document.get("schemaVersion") == 1 or "fsLayers" in document:
        raise SourceError(
            f"{whose}: has a manifest of schema 1",
            why="Docker gave this format up in 2017; it names layers by no checked digest.",
            remedy="Push the image again with a current program, such as skopeo copy.",
        )
    if ("manifests" in document) == ("layers" in document) or media_type not in INDEXES + MANIFESTS:
        raise _lies(whose, f"its manifest of type {media_type} is no image's")
    if ("manifests" in document) != (media_type in INDEXES):
        raise _lies(whose, f"its manifest says it is {media_type}, and is not")
    return "manifests" in document


def choose(index: Mapping[str, Any], arch: str, whose: str) -> Descriptor:
    """Return the entry of an index for a machine. Raises SourceError naming what there is."""
    architecture, variant = platform(arch)
    entries = [_descriptor(entry, whose) for entry in _list(index, "manifests", whose) if entry]
    images = [entry for entry in entries if entry.media_type in INDEXES + MANIFESTS]
    # amd64/v3 and the like need instructions that not every machine has; v1 is any amd64.
    fitting = [
        entry
        for entry in images
        if entry.platform.get("os", "linux") == "linux"
        and entry.platform.get("architecture", architecture) == architecture
        and str(entry.platform.get("variant", "")) <= (variant or "v1")
    ]
    if not fitting:
        there = sorted({_platform_text(entry.platform) for entry in images})
        raise SourceError(
            f"{whose}: there is no image for {_platform_text(_as_platform(arch))}",
            why=f"It comes for {', '.join(there) or 'nothing'}.",
            remedy="Choose another image or tag.",
        )
    # The best that the machine can do, of several the first: amd64 before amd64/v1, v7 before v6.
    return max(fitting, key=lambda entry: str(entry.platform.get("variant", "")) * bool(variant))


def config_of(manifest: Mapping[str, Any], whose: str) -> Descriptor:
    """Return what a manifest says of its configuration."""
    return _descriptor(manifest.get("config"), whose)


def check_is_container(manifest: Mapping[str, Any], whose: str) -> None:
    """Refuse an artifact that is an image's file. Raises SourceError that says how to get it."""
    kinds = [FILES.get(each.media_type) for each in _descriptors(manifest, whose)]
    if kinds and kinds[0]:
        raise SourceError(
            f"{whose}: is a file, of the format {kinds[0]}, and no container image of layers",
            remedy=f"Ask for it by oras://{whose}, or write 'Bootstrap: oras'.",
        )


def image_file(manifest: Mapping[str, Any], whose: str) -> Descriptor:
    """Return the one layer of an artifact that is an image's file. Raises SourceError."""
    layers = _descriptors(manifest, whose)
    if any(each.media_type in LAYERS for each in layers):
        raise SourceError(
            f"{whose}: is a container image of layers, and no file",
            remedy=f"Ask for it by docker://{whose}, or write 'Bootstrap: docker'.",
        )
    files = [each for each in layers if each.media_type in FILES]
    if len(layers) != 1 or not files:
        kinds = ", ".join(sorted({each.media_type[:100] for each in layers})) or "nothing"
        raise SourceError(
            f"{whose}: is no image that can be run",
            why=f"It should be one layer that is an image's file; it has {len(layers)}: {kinds}.",
            remedy="Check the name and the tag.",
        )
    return files[0]


def layers(manifest: Mapping[str, Any], config: Mapping[str, Any], whose: str) -> tuple[Layer, ...]:
    """Return a manifest's layers, the lowest first, with the configuration's diff ids."""
    descriptors = _descriptors(manifest, whose)
    for each in descriptors:
        if each.media_type not in LAYERS:
            raise _lies(whose, f"{each.digest} of type {each.media_type!r} is no layer")
    ids = diff_ids(config, whose)
    if len(ids) != len(descriptors):
        raise _lies(whose, f"it has {len(descriptors)} layers and {len(ids)} diff ids")
    return tuple(
        Layer(each.digest, each.size, LAYERS[each.media_type], diff_id)
        for each, diff_id in zip(descriptors, ids, strict=True)
    )


def diff_ids(config: Mapping[str, Any], whose: str) -> list[str]:
    """Return the digests of a configuration's layers, unpacked."""
    rootfs = config.get("rootfs")
    ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(ids, list) or len(ids) > MOST_LAYERS:
        raise _lies(whose, "its configuration lists no layers")
    return [_digest(each, whose) for each in ids]


def check_machine(config: Mapping[str, Any], arch: str, whose: str) -> None:
    """Refuse an image for another kind of machine; one that does not say is believed."""
    architecture, system = config.get("architecture"), config.get("os")
    if (architecture or platform(arch)[0], system or "linux") != (platform(arch)[0], "linux"):
        raise SourceError(
            f"{whose}: is for {system}/{architecture}, "
            f"not for {_platform_text(_as_platform(arch))}",
            why="Its programs cannot be executed here.",
            remedy="Choose another image or tag.",
        )


def platform(arch: str) -> tuple[str, str]:
    """Return Go's name of a machine and its variant; most have the name that `uname -m` prints."""
    return MACHINES.get(arch, (arch, ""))


def _descriptors(index: Mapping[str, Any], whose: str) -> list[Descriptor]:
    return [_descriptor(entry, whose) for entry in _list(index, "layers", whose)]


def _descriptor(entry: object, whose: str) -> Descriptor:
    if not isinstance(entry, dict):
        raise _lies(whose, "its manifest is incomplete")
    size, media_type = entry.get("size"), entry.get("mediaType")
    place = entry.get("platform") or {}
    # isinstance() would take JSON's true for a size of 1.
    if type(size) is not int or size < 0 or not isinstance(media_type, str):
        raise _lies(whose, f"its manifest gives {entry.get('digest')!r} no size or type")
    if not isinstance(place, dict):
        raise _lies(whose, "its index names a platform that is none")
    return Descriptor(_digest(entry.get("digest"), whose), size, media_type, place)


def _digest(value: object, whose: str) -> str:
    if not isinstance(value, str) or not DIGEST.fullmatch(value):
        raise _lies(whose, f"{str(value)[:100]!r} is no SHA-256 digest")
    return value


def blobs(document: Mapping[str, Any], kind: str) -> list[tuple[str, int]]:
    """Return digest and size of the layers of a type."""
    layers = document.get("layers")
    rows = [each for each in (layers if isinstance(layers, list) else []) if is_described(each)]
    fitting = [each for each in rows if each["mediaType"] == kind and each["size"] > 0]
    return [(each["digest"], each["size"]) for each in fitting[:MOST_LAYERS]]


def referrers(index: Mapping[str, Any], kinds: tuple[str | None, ...], most: int) -> list[str]:
    """Return the digests of the first manifests of an artifact's types in a list of referrers."""
    entries = index.get("manifests")
    rows = [each for each in (entries if isinstance(entries, list) else []) if is_described(each)]
    return [each["digest"] for each in rows if each.get("artifactType") in kinds][:most]


def annotation(entry: Mapping[str, Any], name: str) -> object:
    """Return what an entry of a document is annotated with, None when it is not."""
    annotations = entry.get("annotations")
    return annotations.get(name) if isinstance(annotations, dict) else None


def is_described(entry: object) -> bool:
    """Whether an entry of a manifest says what is needed to fetch it."""
    try:
        _descriptor(entry, "")
    except SourceError:
        return False
    return True


def _list(document: Mapping[str, Any], key: str, whose: str) -> list[Any]:
    entries = document.get(key)
    if not isinstance(entries, list) or len(entries) > MOST_LAYERS:
        raise _lies(whose, f"its manifest has no list of {key}")
    return entries


def _as_platform(arch: str) -> Mapping[str, Any]:
    return {"os": "linux", "architecture": platform(arch)[0], "variant": platform(arch)[1]}


def _platform_text(place: Mapping[str, Any]) -> str:
    words = (place.get("os", "linux"), place.get("architecture", "?"), place.get("variant"))
    return "/".join(str(word) for word in words if word)


def _lies(whose: str, why: str) -> SourceError:
    return SourceError(
        f"{whose}: is no sound image", why=why, remedy="Find out who made it, and have it repaired."
    )
