"""DSSE envelopes: a payload with its type, signed by a key of a PEM file.

github.com/secure-systems-lab/dsse, envelope.md and protocol.md. The keys are of Ed25519, of ECDSA
or of RSA; the digest is SHA-256, as Apptainer and cosign take it.
"""

from __future__ import annotations

import base64
import binascii
import getpass
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from singbuild.errors import UsageError
from singrun.signatures import signers

KEY_START = b"-----BEGIN PUBLIC KEY-----"
_LARGEST = 1 << 16  # bytes of a key's file
_MOST = 16  # signatures of an envelope
_FIELDS = {"payload", "payloadType", "signatures"}
PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True)
class Opened:
    """The verdict on an envelope. payload: the bytes that were verified, b"" for none."""

    status: str
    reason: str
    names: tuple[str, ...]
    fingerprint: str
    payload: bytes


def fingerprint(key: PublicKey) -> str:
    """Return a key's id, as Apptainer and ``ssh-keygen -l`` spell it."""
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    blob = base64.b64decode(key.public_bytes(*form).split()[1])
    return f"SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"


def private_key(path: Path) -> PrivateKey:
    """Return the key of a PEM file, whose password is asked for. Raises UsageError."""
    try:
        data = path.read_bytes()[:_LARGEST]
        password = None
        # Both in "BEGIN ENCRYPTED PRIVATE KEY" and in the older "Proc-Type: 4,ENCRYPTED".
        if b"ENCRYPTED" in data:
            password = getpass.getpass(f"Password of {path}: ").encode()
        key = serialization.load_pem_private_key(data, password)
    except OSError as error:
        raise UsageError(f"cannot read {path}", why=f"{error.strerror}.") from error
    except EOFError:
        what = f"{path} is encrypted, and there is no terminal to ask on"
        raise UsageError(what, remedy="Give the password on standard input.") from None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "private") from error
    if not isinstance(key, PrivateKey):
        raise _no_key(path, "private")
    return key


def public_key(path: Path) -> PublicKey:
    """Return the public key of a PEM file. Raises UsageError: it has none."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes()[:_LARGEST])
    except OSError as error:
        raise UsageError(f"cannot read {path}", why=f"{error.strerror}.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "public") from error
    if not isinstance(key, PublicKey):
        raise _no_key(path, "public")
    return key


def _no_key(path: Path, kind: str) -> UsageError:
    return UsageError(
        f"{path} has no {kind} key of Ed25519, ECDSA or RSA",
        remedy="Make one: openssl genpkey -algorithm ed25519 -out key.pem",
    )


def signature(key: PrivateKey, data: bytes) -> bytes:
    """Return a signature of some bytes."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def is_signed(key: PublicKey, data: bytes, sig: bytes) -> bool:
    """Whether a signature is over some bytes."""
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(sig, data)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(sig, data, padding.PKCS1v15(), hashes.SHA256())
        else:
            key.verify(sig, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def envelope(payload: bytes, kind: str, key: PrivateKey) -> bytes:
    """Return a signed payload of this type, as JSON."""
    signed_bytes = signature(key, _encoded(payload, kind))
    row = {"keyid": fingerprint(key.public_key()), "sig": base64.b64encode(signed_bytes).decode()}
    text = base64.b64encode(payload).decode()
    return json.dumps({"payloadType": kind, "payload": text, "signatures": [row]}).encode()


def opened(data: bytes, kind: str, keys: Sequence[tuple[str, PublicKey]]) -> Opened:
    """Verify an envelope; return the verdict. keys: with the names of their owners."""
    try:
        document = json.loads(data)
        payload = _decoded(document["payload"])
        rows = [(str(row.get("keyid", "")), _decoded(row["sig"])) for row in document["signatures"]]
        payload_kind = document["payloadType"]
        if not (
            {*document} == _FIELDS
            and all({*row} <= {"keyid", "sig"} for row in document["signatures"])
        ):
            raise ValueError("it has other fields")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Opened(signers.BAD, "it is no DSSE envelope", (), "", b"")
    if payload_kind != kind or not 0 < len(rows) <= _MOST:
        return Opened(signers.BAD, "it is an envelope of another kind", (), "", b"")
    for name, key in keys:
        for key_id, signed_bytes in rows:
            if key_id in ("", fingerprint(key)) and is_signed(
                key, _encoded(payload, kind), signed_bytes
            ):
                return Opened(signers.GOOD, "", (name,), fingerprint(key), payload)
    ids = {fingerprint(key) for _, key in keys}
    if ids & {key_id for key_id, _ in rows}:
        return Opened(signers.BAD, "its signature is damaged", (), rows[0][0], b"")
    reason = "its key is in no list of signers, so nothing was checked"
    return Opened(signers.UNKNOWN, reason, (), rows[0][0], b"")


def _encoded(payload: bytes, kind: str) -> bytes:
    """Return what is signed: protocol.md, PAE."""
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)


def _decoded(text: Any) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error
    # b64decode() takes several spellings of the same bytes; what is verified shall have one.
    if base64.b64encode(data).decode() != text:
        raise ValueError("no canonical base64")
    return data
