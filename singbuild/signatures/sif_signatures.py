"""Signs a SIF as Apptainer does, and verifies the signatures in one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from singbuild.errors import ImageError, UsageError
from singbuild.signatures import dsse, pgp, sif_file
from singbuild.signatures.finding import Finding
from singbuild.signatures.image_file import ImageFile
from singbuild.signatures.sif_file import SifFile
from singbuild.signatures.trusted_keys import TrustedKeys
from singrun.signatures import signers
from singrun.signatures.statement import SIGNED

PAYLOAD = "application/vnd.sylabs.sif-metadata+json"
_PLACE = "in the SIF"


def findings(file: ImageFile, trust: TrustedKeys, *, any_group: bool = False) -> list[Finding]:
    """Return the verdicts on the signatures in a file, none where it is no SIF.

    GOOD ones are over the group that has the root file system; any_group: over whatever group.
    Raises ImageError.
    """
    if not sif_file.is_sif(file.boot):
        return []
    sif = SifFile(str(file.path), file.fd)
    verified: dict[tuple[int, bytes], bool] = {}
    rows = []
    for group, data in sif.signatures():
        finding, payload = _opened(data, trust)
        if finding.status in (signers.GOOD, signers.REFUSED):
            if (group, payload) not in verified:
                verified[group, payload] = group in sif.groups and sif.is_true(payload, group)
            if not verified[group, payload]:
                reason = "it is over another image, or over this one as it was"
                finding = replace(finding, status=signers.BAD, reason=reason)
            elif not (any_group or sif.has_root(group)):
                reason = "it is not over the root file system"
                finding = replace(finding, status=signers.UNKNOWN, reason=reason)
        rows.append(finding)
    return rows


def _opened(data: bytes, trust: TrustedKeys) -> tuple[Finding, bytes]:
    """Return the verdict on a signature, and the payload, b"" unless that was verified."""
    if data.startswith(pgp.START):
        by_gpg = pgp.checked(data, trust.keyrings)
        parts = (by_gpg.status, by_gpg.reason, by_gpg.names, "pgp", SIGNED, by_gpg.date)
        return Finding(*parts, "PGP", by_gpg.fingerprint, _PLACE), by_gpg.text
    by_key = dsse.opened(data, PAYLOAD, trust.keys)
    parts = (by_key.status, by_key.reason, by_key.names, "dsse", SIGNED, "")
    return Finding(*parts, "DSSE", by_key.fingerprint, _PLACE), by_key.payload


def sign(file: ImageFile, key: Path | None, *, scheme: str) -> list[str]:
    """Sign each group of a SIF; return the keys' fingerprints. scheme: "pgp" or "dsse".

    key: for PGP as gpg takes it, for DSSE a PEM file. Raises UsageError, ImageError, HostError.
    """
    if not sif_file.is_sif(file.boot):
        raise UsageError(
            f"{file.path} is no SIF",
            why="Signatures of PGP and DSSE stand in a SIF only.",
            remedy="Sign with an SSH key, or make a SIF: singbuild convert IMAGE IMAGE.sif",
        )
    if not file.writable:
        raise ImageError(f"{file.path} is not yours to write", remedy="Sign a copy.")
    sif = SifFile(str(file.path), file.fd)
    private = None
    if scheme == "dsse":
        if not key:
            raise UsageError("--dsse needs --key FILE", remedy="Name a private key in PEM.")
        private = dsse.private_key(key)
    if not sif.groups:
        raise ImageError(
            f"{file.path} has nothing to sign",
            why="Signatures are over groups of objects, and none of its objects is in a group.",
            remedy="Make the SIF anew: singbuild convert IMAGE IMAGE.sif",
        )
    rows, fingerprints = [], []
    for group in sif.groups:
        text = sif.text(group)
        if private:
            rows.append((group, dsse.envelope(text, PAYLOAD, private), b""))
            fingerprints.append(dsse.fingerprint(private.public_key()))
        else:
            data, fingerprint = pgp.signed(text, str(key or ""))
            rows.append((group, data, sif_file.fingerprint_bytes(fingerprint)))
            fingerprints.append(fingerprint)
    with file.alone():
        now = SifFile(str(file.path), file.fd)  # others may have signed it meanwhile
        if not now.has_content_of(sif):
            raise ImageError(
                f"{file.path} was changed while it was signed", remedy="Sign it again."
            )
        now.add(rows, int(datetime.now(UTC).timestamp()))
    return sorted({*fingerprints})
