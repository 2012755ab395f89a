"""Keys of those who sign what is pushed: PEM, with a password or without; cosign's own files too.

cosign encrypts a key with a password's scrypt (RFC 7914) and NaCl's secretbox, in JSON in PEM:
github.com/sigstore/cosign, pkg/cosign/keys.go; github.com/secure-systems-lab/go-securesystemslib,
encrypted/encrypted.go. Imported only where something is signed or verified: cryptography takes a
tenth of the time of a push that signs nothing.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import json
import os
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from singbuild import HostError

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_COSIGN = ("ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY")
_PASSWORD = "COSIGN_PASSWORD"  # noqa: S105  the variable's name, which cosign reads too
_LARGEST = 1 << 16  # bytes of a key's file
_HARDEST = (1 << 20, 32, 16)  # N, r and p of scrypt; cosign takes 65536, 8 and 1
_MEMORY = 1 << 30  # bytes for scrypt


def private_key(path: Path) -> PrivateKey:
    """Return the private key in a file. Raises HostError: there is none, or it stays closed.

    The password of an encrypted one is in COSIGN_PASSWORD, or is asked for at the terminal.
    """
    try:
        data = path.read_bytes()[:_LARGEST]
        if any(f"-----BEGIN {kind}-----".encode() in data for kind in _COSIGN):
            key = serialization.load_der_private_key(_decrypted(data, _password(path)), None)
        else:
            password = _password(path) if b"ENCRYPTED" in data else None
            key = serialization.load_pem_private_key(data, password)
    except (OSError, ValueError, TypeError, KeyError, UnsupportedAlgorithm) as error:
        raise HostError(
            f"{path} has no private key that can be used",
            why=f"{error}.",
            remedy="Make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        ) from error
    if not isinstance(key, PrivateKey):
        raise HostError(f"the key in {path} is of no kind that cosign takes")
    return key


def signature(key: PrivateKey, data: bytes) -> bytes:
    """Return a signature of some bytes, as cosign makes it."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    return key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def public_key(data: bytes) -> PublicKey | None:
    """Return the public key in a PEM file, None if it has none that cosign takes."""
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, PublicKey) else None


def is_signed(key: PublicKey, text: bytes, value: bytes) -> bool:
    """Whether a signature, as cosign makes it, is that of some bytes by this key."""
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(value, text, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(value, text, padding.PKCS1v15(), hashes.SHA256())
        else:
            key.verify(value, text)
    except InvalidSignature:
        return False
    return True


def hint(key: PrivateKey) -> str:
    """Return what tells a key from others: the SHA-256 of its public part, as base64."""
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return base64.b64encode(hashlib.sha256(key.public_key().public_bytes(*form)).digest()).decode()


def _password(path: Path) -> bytes:
    """Return a key's password. Raises HostError: there is nobody to ask."""
    if (password := os.environ.get(_PASSWORD)) is not None:
        return password.encode()
    if not sys.stdin.isatty():
        remedy = f"Put it into the variable {_PASSWORD}."
        raise HostError(f"{path} is encrypted, and there is no terminal to ask on", remedy=remedy)
    return getpass.getpass(f"Password of {path}: ").encode()


def _decrypted(data: bytes, password: bytes) -> bytes:
    """Return what cosign encrypted. Raises ValueError, KeyError: another password, or no such file.

    HostError: there is no PyNaCl.
    """
    try:
        from nacl.exceptions import CryptoError
        from nacl.secret import SecretBox
    except ImportError as error:
        what, remedy = "cosign's encrypted keys need PyNaCl", "pip install 'singbuild[cosign]'"
        raise HostError(what, remedy=remedy) from error
    lines = data.decode("ascii").strip().splitlines()
    document = json.loads(base64.b64decode("".join(lines[1:-1]), validate=True))
    kdf, cipher = document["kdf"], document["cipher"]
    costs = [kdf["params"][name] for name in ("N", "r", "p")]
    if (kdf["name"], cipher["name"]) != ("scrypt", "nacl/secretbox"):
        raise ValueError(f"it is encrypted by {kdf['name']} and {cipher['name']}")
    bounds = zip(costs, _HARDEST, strict=True)
    if any(type(cost) is not int or cost > most for cost, most in bounds):
        raise ValueError("its scrypt costs more than a password is worth")
    n, r, p = costs
    salt, nonce = base64.b64decode(kdf["salt"]), base64.b64decode(cipher["nonce"])
    secret = hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=_MEMORY, dklen=32)
    try:
        plain = SecretBox(secret).decrypt(base64.b64decode(document["ciphertext"]), nonce)
    except CryptoError:
        remedy = f"Correct it, or what {_PASSWORD} is set to."
        raise HostError("that is not the password of the key", remedy=remedy) from None
    return bytes(plain)
