"""Checks cosign's signatures and attestations of an image in a registry, by public keys.

A transport brings them; they are hostile until they are checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from singbuild.contract import RemoteSignature, Reporter
from singbuild.signatures import dsse
from singbuild.signatures import report as reports
from singbuild.signatures.finding import Finding
from singbuild.signatures.report import Report
from singbuild.signatures.trusted_keys import TrustedKeys
from singbuild.transports import loading
from singrun.signatures import signers
from singrun.signatures.statement import SIGNED

_SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
_IN_TOTO = "application/vnd.in-toto+json"
_SIGNS = ("cosign container image signature", "https://sigstore.dev/cosign/sign/v1")
ATTESTED = "attested"  # the claim of any other statement, before its predicate's type


def examine(
    uri: str, trust: TrustedKeys, report: Reporter, *, required: Sequence[str], signed: bool
) -> tuple[str, Report]:
    """Return an image's digest in its registry, and the verdict on its signatures there.

    required, signed: as for ``report.examine``. Raises SourceError, UsageError.
    """
    place = loading.place(uri)
    digest, signatures = loading.find(place.scheme).signatures(place, report)
    findings = [_finding(each, digest, trust) for each in signatures]
    return digest, reports.judged(findings, required, signed=signed)


def _finding(each: RemoteSignature, digest: str, trust: TrustedKeys) -> Finding:
    claim, is_about_it = _claimed(each, digest)
    for name, key in trust.keys:
        if dsse.is_signed(key, each.signed, each.signature):
            reason = "" if is_about_it else "it is over another image"
            status = signers.GOOD if is_about_it else signers.BAD
            who = (name,) if is_about_it else ()
            parts = (status, reason, who, "cosign", claim, "")
            return Finding(*parts, "key", dsse.fingerprint(key), each.place)
    reason = "its key is in no list of signers, so nothing was checked"
    return Finding(signers.UNKNOWN, reason, (), "cosign", claim, "", "", "", each.place)


def _claimed(each: RemoteSignature, digest: str) -> tuple[str, bool]:
    """Return what is claimed, and whether it is about the image with this digest."""
    try:
        document: Any = json.loads(each.payload)
        if each.kind == _SIMPLE:
            critical = document["critical"]
            kind, digests = critical["type"], [critical["image"]["docker-manifest-digest"]]
        elif each.kind == _IN_TOTO:
            kind = document["predicateType"]
            digests = [f"sha256:{row['digest'].get('sha256')}" for row in document["subject"]]
        else:
            return f"{ATTESTED} {each.kind!a}", False
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{ATTESTED} something", False
    claim = SIGNED if kind in _SIGNS else f"{ATTESTED} {ascii(str(kind))[1:-1][:200]}"
    return claim, digest in digests
