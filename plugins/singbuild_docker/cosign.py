"""Cosign's signatures of images in registries, by key pairs: what is signed, and by whom.

The classic form: under the tag sha256-DIGITS.sig lies a manifest whose layers are payloads, each
with its signature as an annotation. github.com/sigstore/cosign, specs/SIGNATURE_SPEC.md.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from singbuild_docker.manifest import annotation, is_described

if TYPE_CHECKING:
    from singbuild_docker.keys import PrivateKey, PublicKey

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
LARGEST = 1 << 20  # bytes of a payload
MOST = 64  # signatures that are looked at
_TYPE = "cosign container image signature"
_OURS = "singbuild"


@dataclass(frozen=True)
class Signature:
    """A payload and its signature, as they lie in a registry: nobody has checked them."""

    payload: bytes
    value: str

    def identity(self, digest: str, key: PublicKey) -> str | None:
        """Return the name of the image that was signed; None unless this key signed this digest."""
        from singbuild_docker.keys import is_signed

        try:
            value = base64.b64decode(self.value, validate=True)
        except ValueError:  # no base64, or no ASCII
            return None
        if not is_signed(key, self.payload, value):
            return None
        try:
            critical = json.loads(self.payload)["critical"]
            names = (critical["identity"]["docker-reference"], critical["type"])
            same = critical["image"]["docker-manifest-digest"] == digest
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return str(names[0]) if same and names[1] == _TYPE else None


def tag(digest: str) -> str:
    """Return the tag of the signatures of a manifest."""
    return f"{digest.replace(':', '-')}.sig"


def payload(name: str, digest: str) -> bytes:
    """Return what is signed of an image. name: with its registry, without a tag."""
    critical = {
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": _TYPE,
    }
    return json.dumps({"critical": critical, "optional": {"creator": _OURS}}).encode()


def config(payloads: list[str]) -> bytes:
    """Return the configuration of a manifest of signatures. payloads: their digests."""
    root = {"type": "layers", "diff_ids": payloads}
    return json.dumps({"architecture": "", "os": "", "config": {}, "rootfs": root}).encode()


def signed(text: bytes, key: PrivateKey) -> str:
    """Return a signature of some bytes, as an annotation has it."""
    from singbuild_docker.keys import signature

    return base64.b64encode(signature(key, text)).decode()


def listed(document: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """Return digest and size of each payload in a manifest of signatures, and its signature."""
    rows = []
    layers = document.get("layers")
    for layer in (layers if isinstance(layers, list) else [])[:MOST]:
        if is_described(layer) and layer["mediaType"] == PAYLOAD and 0 < layer["size"] <= LARGEST:
            value = annotation(layer, ANNOTATION)
            if isinstance(value, str):
                rows.append((layer["digest"], layer["size"], value))
    return rows
