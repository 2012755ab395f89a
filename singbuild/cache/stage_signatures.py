"""Signatures of stages in a registry: SSH signatures, over the packed file that was sent.

Each lies under a tag of its own, made of the digest of what it signs. The packed file names its
key, so that nobody passes one stage off as another.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from singbuild import ssh_key
from singbuild.errors import HostError
from singrun.errors import UnavailableError
from singrun.signatures import signers, statement
from singrun.signatures.signers import Signers
from singrun.signatures.statement import Statement


def tag(digest: str) -> str:
    """Return the tag of the signature over the file that has this digest in the registry."""
    return f"{digest.replace(':', '-')}.ssh"


def text(sha256: str, key: Path) -> bytes:
    """Return a signature with a key, over the file of this digest. Raises HostError."""
    date = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    own = Statement("", 0, f"sha256:{sha256}", date, statement.SIGNED)
    return statement.as_text([ssh_key.signed(own, key)]).encode()


def complaint(signature: bytes, sha256: str, lists: Signers) -> str:
    """Return why a text has no signature of a known signer over a file, "" if it has one.

    Raises HostError: this host cannot check it.
    """
    try:
        listed = statement.in_text(signature.decode("ascii"))
    except ValueError as error:
        return f"its signature cannot be read: {error}"
    reason = "it is over another file"
    for each in listed:
        own = each.statement
        if (own.file, own.start, own.claim) != (f"sha256:{sha256}", 0, statement.SIGNED):
            continue
        try:
            verdict = signers.judged(each, lists)
        except UnavailableError as error:
            raise HostError(error.what, why=error.why, remedy=error.remedy) from error
        if verdict.status == signers.GOOD:
            return ""
        reason = verdict.reason
    return reason
