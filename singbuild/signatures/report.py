"""The whole verdict on an image: its content, its signatures, and what is missing."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from singbuild.contract import Reporter
from singbuild.errors import HostError, ImageError, SignatureError
from singbuild.images import verification
from singbuild.images.verification import Sound
from singbuild.signatures import image_file, sif_signatures
from singbuild.signatures.finding import Finding
from singbuild.signatures.image_file import ImageFile, Placed
from singbuild.signatures.trusted_keys import TrustedKeys
from singrun.errors import UnavailableError
from singrun.signatures import signers
from singrun.signatures.signers import Signers, Verdict
from singrun.signatures.statement import REBUILT, SIGNED, Signed


@dataclass(frozen=True)
class Report:
    """The verdict on an image. sound: None where the file records no digest, but is signed.

    missing: required signers who have not signed.
    """

    sound: Sound | None
    findings: Sequence[Finding]
    missing: Sequence[str]

    @property
    def rebuilders(self) -> dict[str, tuple[str, ...]]:
        """Return the keys by which it is signed that it was rebuilt, with their known owners."""
        rebuilt = (each for each in self.findings if each.claim == REBUILT and each.is_checked)
        return {each.fingerprint: each.principals for each in rebuilt}

    def error(self, path: Path | str) -> SignatureError | None:
        """Return why it is not accepted, if so. path: what it is called."""
        wrong = [f for f in self.findings if f.status in (signers.REFUSED, signers.BAD)]
        if wrong:
            remedy = "Ask its author, or remove what is wrong: singbuild sign --remove"
            why = "\n".join(map(str, wrong))
            return SignatureError(f"a signature of {path} is not accepted", why=why, remedy=remedy)
        if not self.sound and not any(f.is_checked for f in self.findings):
            nothing = "It records no digest, and n" if isinstance(path, Path) else "N"
            why = f"{nothing}obody is known who signed it:"
            why = "\n".join([why, *map(str, self.findings)])
            remedy = "Name the signer's key: --signers FILE"
            return SignatureError(f"nothing of {path} could be checked", why=why, remedy=remedy)
        if self.missing:
            why = "\n".join(map(str, self.findings)) or "It has no signature."
            return SignatureError(f"{path} is not signed by {', '.join(self.missing)}", why=why)
        return None


def examine(
    path: Path,
    trust: TrustedKeys,
    *,
    beside: Path | None = None,
    required: Sequence[str] = (),
    signed: bool = False,
    rebuilds: int = 0,
    report: Reporter | None = None,
) -> Report:
    """Verify an image's content and signatures. Raises ImageError, HostError.

    required: principals who must have signed; signed: somebody of the lists must have;
    rebuilds: how many keys of known owners must have signed that they built it again;
    report: as for ``verification.verify``.
    """
    if path.is_dir():
        sound: Sound | None = verification.verify(path, report)
        return _report(sound, [], required, signed=signed, rebuilds=rebuilds)
    with image_file.opened(path, beside=beside) as file:
        placed = file.signatures()
        findings = sif_signatures.findings(file, trust)
        sound = _content(file, may_lack=bool(placed or findings), report=report)
        expected = (sound.digest if sound else "", file.start, file.digest() if placed else "")
        findings += [_finding(each, expected, trust.ssh) for each in placed]
    return _report(sound, findings, required, signed=signed, rebuilds=rebuilds)


def content(file: ImageFile) -> Sound | None:
    """Return what is sound of a file's content, None if it records nothing. Raises ImageError."""
    return _content(file, may_lack=True)


def _content(file: ImageFile, *, may_lack: bool, report: Reporter | None = None) -> Sound | None:
    try:
        return verification.verify(file.open_path, report)
    except verification.NoRecordError as error:
        if may_lack:
            return None
        raise _named(error, file) from error
    except ImageError as error:
        raise _named(error, file) from error


def _named(error: ImageError, file: ImageFile) -> ImageError:
    """Put the file's own name into an error."""
    parts = (error.what, error.why, error.remedy)
    what, why, remedy = (p.replace(str(file.open_path), str(file.path)) for p in parts)
    error.what, error.why, error.remedy = what, why, remedy
    error.args = (what,)
    return error


def _finding(placed: Placed, expected: tuple[str, int, str], lists: Signers) -> Finding:
    verdict = _verdict(placed, expected, lists)
    own: Signed = placed.signed
    return Finding(
        status=verdict.status,
        reason=verdict.reason,
        principals=tuple(verdict.names),
        scheme="ssh",
        claim=own.statement.claim,
        date=own.statement.date,
        key_type=own.signature.key_type,
        fingerprint=own.signature.fingerprint,
        place=placed.place,
    )


def _verdict(placed: Placed, expected: tuple[str, int, str], lists: Signers) -> Verdict:
    """Judge a signature. expected: the content, start and file that its statement must name."""
    statement = placed.signed.statement
    if (statement.content, statement.start, statement.file) != expected:
        return Verdict(signers.BAD, [], "it is over another image, or over this one as it was")
    try:
        return signers.judged(placed.signed, lists)
    except UnavailableError as error:
        raise HostError(error.what, why=error.why, remedy=error.remedy) from error


def judged(findings: list[Finding], required: Sequence[str], *, signed: bool) -> Report:
    """Return the verdict on what has nothing but signatures. required, signed: as in examine."""
    return _report(None, findings, required, signed=signed, rebuilds=0)


def _report(
    sound: Sound | None,
    findings: list[Finding],
    required: Sequence[str],
    *,
    signed: bool,
    rebuilds: int,
) -> Report:
    # REBUILT does not count: it claims that the recipe gives this image, not that it may be run.
    good = [each for each in findings if (each.status, each.claim) == (signers.GOOD, SIGNED)]
    missing = [name for name in required if not any(_is_by(each, name) for each in good)]
    if signed and not good:
        missing.append("anybody in the lists of signers")
    count = sum(bool(names) for names in Report(sound, findings, ()).rebuilders.values())
    if count < rebuilds:
        missing.append(f"{rebuilds} known signers who rebuilt it, but by {count}")
    return Report(sound, findings, missing)


def _is_by(finding: Finding, name: str) -> bool:
    """Whether a good signature is by a principal."""
    if finding.scheme == "ssh":  # whose lists have patterns: ssh-keygen(1), ALLOWED SIGNERS
        return any(fnmatch.fnmatchcase(name, each) for each in finding.principals)
    return name in finding.principals  # who makes a PGP key writes any user ID, such as "*"
