"""Statements about an image that is in a registry, signed: in-toto, in DSSE, in sigstore's bundle.

github.com/in-toto/attestation, spec/v1; secure-systems-lab/dsse, protocol.md;
sigstore/cosign, specs/BUNDLE_SPEC.md and ATTESTATION_SPEC.md. No log of sigstore's has part in it.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from singbuild import RemoteSignature

if TYPE_CHECKING:
    from singbuild_docker.keys import PrivateKey

ENVELOPE = "application/vnd.dsse.envelope.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNED = "https://sigstore.dev/cosign/sign/v1"  # the predicate of cosign's signatures in bundles
IN_TOTO = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_KIND = "predicateType"
_MOST = 16  # signatures of one envelope
LARGEST = 32 << 20  # bytes of an envelope or a bundle: the bill of materials of a large image
MOST_BYTES = 64 << 20  # of all that are read of one image

Json = dict[str, Any]


def tag(digest: str) -> str:
    """Return the tag of the classic attestations of a manifest."""
    return f"{digest.replace(':', '-')}.att"


def layer_annotations(kind: str, key: PrivateKey) -> dict[str, str]:
    """Return what a layer of the classic form is annotated with. kind: of the predicate."""
    from singbuild_docker.keys import hint

    # cosign wants its own to be there, though the signature is in the envelope.
    return {
        "dev.cosignproject.cosign/signature": "",
        _KIND: kind,
        "dev.singbuild.key": hint(key),
    }


def bundle_annotations(kind: str) -> dict[str, str]:
    """Return what a bundle's manifest is annotated with. kind: of the predicate."""
    return {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": kind,
    }


def envelope(name: str, digest: str, kind: str, predicate: Json, key: PrivateKey) -> Json:
    """Return a signed statement about a manifest. name: with its registry, without a tag."""
    from singbuild_docker.keys import signature

    algorithm, _, hexadecimal = digest.partition(":")
    body = {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {algorithm: hexadecimal}}],
        _KIND: kind,
        "predicate": predicate,
    }
    payload = json.dumps(body).encode()
    value = base64.b64encode(signature(key, _encoded(IN_TOTO, payload))).decode()
    text = base64.b64encode(payload).decode()
    return {"payloadType": IN_TOTO, "payload": text, "signatures": [{"sig": value}]}


def bundle(signed: Json, key: PrivateKey) -> bytes:
    """Return an envelope as sigstore's bundle has it, to be verified with the key alone."""
    from singbuild_docker.keys import hint

    material = {"publicKey": {"hint": hint(key)}}
    body = {"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": signed}
    return json.dumps(body).encode()


def opened(content: bytes, place: str) -> list[RemoteSignature]:
    """Return the signatures of an envelope, or of the one in a bundle; none of anything else."""
    try:
        document = json.loads(content)
        signed = document.get("dsseEnvelope", document)
        kind, payload = signed["payloadType"], base64.b64decode(signed["payload"])
        values = [base64.b64decode(each["sig"]) for each in signed["signatures"][:_MOST]]
        encoded = _encoded(kind, payload)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return [RemoteSignature(kind, payload, encoded, value, place) for value in values]


def _encoded(kind: str, payload: bytes) -> bytes:
    """Return what DSSE signs: its "PAE"."""
    return b"DSSEv1 %d %b %d %b" % (len(kind.encode()), kind.encode(), len(payload), payload)
