"""Container images for tests: layers made entry by entry, OCI layouts made by hand."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "+gzip": functools.partial(gzip.compress, compresslevel=1, mtime=0),  # 9: 13 s for a Python
    "+zstd": zstd.compress,
}
Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any) -> Entry:
    """Return a member; fields are TarInfo's: mode, uid, gid, mtime, linkname, pax_headers …"""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mtime = kind, len(data), 1_600_000_000
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def file(name: str, data: bytes = b"data", **fields: Any) -> Entry:
    return entry(name, tarfile.REGTYPE, data, **fields)


def directory(name: str, **fields: Any) -> Entry:
    return entry(name, tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str, **fields: Any) -> Entry:
    return entry(name, tarfile.SYMTYPE, linkname=target, mode=0o777, **fields)


def hardlink(name: str, target: str, **fields: Any) -> Entry:
    return entry(name, tarfile.LNKTYPE, linkname=target, **fields)


def whiteout(name: str) -> Entry:
    above, _, last = name.rpartition("/")
    return file(f"{above}/.wh.{last}" if above else f".wh.{last}", b"")


def opaque(name: str) -> Entry:
    return file(f"{name}/.wh..wh..opq", b"")


def archive(*entries: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar archive of these entries, as they are."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8") as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass
class ContainerImage:
    """An image in pieces. blobs: by digest, manifest and configuration among them."""

    blobs: dict[str, bytes]
    manifest: str
    config: str
    layers: list[str]

    def descriptor(self, **platform: str) -> dict[str, Any]:
        about = {"mediaType": MANIFEST, "digest": self.manifest}
        size = len(self.blobs[self.manifest])
        return {**about, "size": size} | ({"platform": platform} if platform else {})

    def changed(self, key: str, value: object) -> ContainerImage:
        """The image with another value in its manifest."""
        content = json.loads(self.blobs[self.manifest]) | {key: value}
        return self.remade(json.dumps(content).encode())

    def configured(self, config: Mapping[str, Any]) -> ContainerImage:
        """The image with another configuration, and the history that builders of others want."""
        history = [{"created_by": "test"}] * len(self.layers)
        old = json.loads(self.blobs[self.config])
        text = json.dumps(old | {"config": config, "history": history}).encode()
        manifest = json.loads(self.blobs[self.manifest]) | {"config": described(text, CONFIG)}
        content = json.dumps(manifest).encode()
        blobs = {**self.blobs, sha256(text): text, sha256(content): content}
        return ContainerImage(blobs, sha256(content), sha256(text), self.layers)

    def remade(self, content: bytes) -> ContainerImage:
        """The image with another manifest."""
        return ContainerImage(
            self.blobs | {sha256(content): content}, sha256(content), self.config, self.layers
        )


def image(
    *archives: bytes,
    packing: str = "+gzip",
    arch: str = "amd64",
    config: Mapping[str, Any] | None = None,
    created: str = "2020-09-13T12:26:40Z",
) -> ContainerImage:
    """Make an image of layers, the lowest first."""
    about = {"architecture": arch, "os": "linux", "created": created, "config": config or {}}
    about["rootfs"] = {"type": "layers", "diff_ids": [sha256(each) for each in archives]}
    text = json.dumps(about).encode()
    packed = [PACK[packing](each) for each in archives]
    blobs = {sha256(content): content for content in (text, *packed)}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described(text, CONFIG),
        "layers": [described(content, LAYER + packing) for content in packed],
    }
    content = json.dumps(manifest).encode()
    blobs[sha256(content)] = content
    return ContainerImage(blobs, sha256(content), sha256(text), [sha256(each) for each in packed])


def described(content: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(content), "size": len(content)}


def index(*entries: Mapping[str, Any]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


def write_layout(where: Path, images: Mapping[str, ContainerImage]) -> Path:
    """Write an OCI layout; images: by tag."""
    (where / "blobs/sha256").mkdir(parents=True)
    (where / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entries: Sequence[dict[str, Any]] = [
        each.descriptor() | {"annotations": {"org.opencontainers.image.ref.name": tag}}
        for tag, each in images.items()
    ]
    (where / "index.json").write_bytes(index(*entries))
    for each in images.values():
        for digest, content in each.blobs.items():
            (where / "blobs" / digest.replace(":", "/")).write_bytes(content)
    return where
