"""An SSH signature: packed for the boot block, armored as ssh-keygen writes it.

OpenSSH, PROTOCOL.sshsig; RFC 4253, 4251 section 5 for its strings.
"""

import base64
import binascii
import hashlib

NAMESPACE = "singbuild-image"
_MAGIC, _VERSION, _HASH = b"SSHSIG", b"\0\0\0\1", b"sha512"  # the hash that ssh-keygen takes
BEGIN, END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_MOST = 1 << 14  # bytes; a signature of RSA with 16384 bits has 4,250
_COLUMNS = 70  # of ssh-keygen's armor
_KEY_START = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
_VALUE_START = b"\0\0\0\x0bssh-ed25519\0\0\0\x40"
_RAW = 32 + 64  # bytes of an Ed25519 key and of what it signs


class Signature:
    """One signature. key: the public key, value: what was made with it, both as SSH sends them."""

    def __init__(self, key: bytes, value: bytes) -> None:
        self.key, self.value = key, value

    @property
    def key_type(self) -> str:
        """The key's algorithm, such as "ssh-ed25519"."""
        return _strings(self.key, 1)[0].decode("ascii", "replace")

    @property
    def fingerprint(self) -> str:
        """The key's fingerprint, as ``ssh-keygen -l`` prints it."""
        digest = hashlib.sha256(self.key).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"

    def packed(self) -> str:
        """Return it without what is the same for all: of Ed25519 96 bytes, as base64."""
        key, value = self.key, self.value
        if key.startswith(_KEY_START) and value.startswith(_VALUE_START):
            raw = key[len(_KEY_START) :] + value[len(_VALUE_START) :]
            if len(raw) == _RAW:
                return base64.b64encode(raw).decode()
        return base64.b64encode(_string(key) + _string(value)).decode()

    def armored(self) -> str:
        """Return it as ``ssh-keygen -Y sign`` writes it."""
        rest = (NAMESPACE.encode(), b"", _HASH, self.value)
        blob = _MAGIC + _VERSION + b"".join(map(_string, (self.key, *rest)))
        text = base64.b64encode(blob).decode()
        rows = [text[at : at + _COLUMNS] for at in range(0, len(text), _COLUMNS)]
        return "\n".join([BEGIN, *rows, END]) + "\n"


def unpacked(text: str) -> Signature:
    """Return the signature that ``packed`` wrote. ValueError: it did not write that."""
    data = _decoded(text)
    if len(data) == _RAW:
        return Signature(_KEY_START + data[:32], _VALUE_START + data[32:])
    signature = _checked(*_strings(data, 2))
    if signature.packed() != text:
        raise ValueError("it is spelled otherwise than singbuild spells it")
    return signature


def dearmored(text: str) -> Signature:
    """Return the signature that ssh-keygen wrote. ValueError: none, or not one for images."""
    rows = text.strip().split("\n")
    if rows[0] != BEGIN or rows[-1] != END:
        raise ValueError("it is no SSH signature")
    blob = _decoded("".join(rows[1:-1]))
    start = _MAGIC + _VERSION
    if not blob.startswith(start):
        raise ValueError("it is no SSH signature of version 1")
    key, namespace, reserved, hash_name, value = _strings(blob[len(start) :], 5)
    if namespace != NAMESPACE.encode():
        name = ascii(namespace.decode("ascii", "replace"))
        raise ValueError(f"it was made for the namespace {name}, not for {NAMESPACE!r}")
    if reserved or hash_name != _HASH:
        raise ValueError(f"it is not over {_HASH.decode()}")
    return _checked(key, value)


def _checked(key: bytes, value: bytes) -> Signature:
    signature = Signature(key, value)
    if not signature.key_type.isascii() or not signature.key_type.isprintable():
        raise ValueError("its key is of no type")
    return signature


def _decoded(text: str) -> bytes:
    """Return what base64 says, if it says it in the one way there is."""
    if len(text) > _MOST * 4 // 3:
        raise ValueError("it is too long")
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("it is no base64") from None
    if base64.b64encode(data).decode() != text:
        raise ValueError("it is no canonical base64")
    return data


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _strings(data: bytes, count: int) -> "list[bytes]":
    """Return the first strings of some bytes; of more than one, they have to be all."""
    strings, at = [], 0
    for _ in range(count):
        size = int.from_bytes(data[at : at + 4], "big")
        if len(data) < at + 4 + size:
            raise ValueError("it is cut short")
        strings.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    if count > 1 and at != len(data):
        raise ValueError("something stands behind it")
    return strings
