"""The whole verdict on an image: its content, its signatures, and what is missing."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from singbuild.contract import Reporter
from singbuild.errors import HostError, ImageError, SignatureError
from singbuild.images import verification
from singbuild.images.verification import Sound
from singbuild.signatures import image_file
from singbuild.signatures.image_file import ImageFile, Placed
from singrun.errors import UnavailableError
from singrun.signatures import signers
from singrun.signatures.signers import Signers, Verdict

_WORDS = {signers.GOOD: "", signers.UNKNOWN: "not known: ", signers.REFUSED: "refused: "}


@dataclass(frozen=True)
class Finding:
    """A signature, where it stands, and what became of it."""

    placed: Placed
    verdict: Verdict

    def __str__(self) -> str:
        statement, signature = self.placed.signed.statement, self.placed.signed.signature
        d, t = statement.date[:8], statement.date[9:]
        when = f"{d[:4]}-{d[4:6]}-{d[6:]} {t[:2]}:{t[2:4]}:{t[4:6]} UTC"
        who = f" by {', '.join(self.verdict.names)}" if self.verdict.names else ""
        reason = "" if self.verdict.status == signers.GOOD else f"; {self.verdict.reason}"
        word = _WORDS.get(self.verdict.status, "bad: ")
        key = f"{signature.key_type} {signature.fingerprint}"
        return f"{word}{statement.claim}{who} on {when} with {key} ({self.placed.place}){reason}"

    def as_json(self) -> dict[str, Any]:
        """Return it as `verify --json` prints it."""
        statement, signature = self.placed.signed.statement, self.placed.signed.signature
        return {
            "status": self.verdict.status,
            "reason": self.verdict.reason,
            "principals": self.verdict.names,
            "claim": statement.claim,
            "date": statement.date,
            "key_type": signature.key_type,
            "fingerprint": signature.fingerprint,
            "place": self.placed.place,
        }


@dataclass(frozen=True)
class Report:
    """What was found. sound: None where the file records nothing but is signed as it is.

    missing: who was asked for and has not signed.
    """

    sound: Sound | None
    findings: Sequence[Finding]
    missing: Sequence[str]

    def error(self, path: Path) -> SignatureError | None:
        """Return why it is not accepted, if so."""
        wrong = [f for f in self.findings if f.verdict.status in (signers.REFUSED, signers.BAD)]
        if wrong:
            remedy = "Ask its author, or remove what is wrong: singbuild sign --remove"
            why = "\n".join(map(str, wrong))
            return SignatureError(f"a signature of {path} is not accepted", why=why, remedy=remedy)
        if self.missing:
            why = "\n".join(map(str, self.findings)) or "It has no signature."
            return SignatureError(f"{path} is not signed by {', '.join(self.missing)}", why=why)
        return None


def known_signers(allowed: Sequence[Path], revoked: Sequence[Path]) -> Signers:
    """Return the lists to be asked: those named, or else the site's and the user's.

    The site's and the user's revoked keys count always. Raises ImageError for one that is not
    readable.
    """
    own = platformdirs.user_config_path("singbuild")
    defaults = [
        Path(signers.ALLOWED),
        own / "allowed_signers",
        Path.home() / ".ssh/allowed_signers",
    ]
    lists = list(allowed) or [path for path in defaults if path.exists()]
    bans = [Path(signers.REVOKED), own / "revoked_keys"]
    bans = [*revoked, *(path for path in bans if path.exists())]
    for path in (*lists, *bans):
        if not os.access(path, os.R_OK) or path.is_dir():
            raise ImageError(f"cannot read the list of signers {path}")
    return Signers([*map(str, lists)], [*map(str, bans)])


def examine(
    path: Path,
    known: Signers,
    *,
    beside: Path | None = None,
    wanted: Sequence[str] = (),
    signed: bool = False,
    report: Reporter | None = None,
) -> Report:
    """Return what is found of an image's content and signatures. Raises ImageError, HostError.

    wanted: principals who have to have signed; signed: somebody of the lists has to have;
    report: as for ``verification.verify``.
    """
    if path.is_dir():
        return _report(verification.verify(path, report), [], wanted, signed=signed)
    with image_file.opened(path, beside=beside) as file:
        placed = file.signatures()
        sound = _content(file, may_lack=bool(placed), report=report)
        findings = [Finding(each, _verdict(each, file, sound, known)) for each in placed]
    return _report(sound, findings, wanted, signed=signed)


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


def _verdict(placed: Placed, file: ImageFile, sound: Sound | None, known: Signers) -> Verdict:
    statement = placed.signed.statement
    true = (sound.digest if sound else "", file.start, file.digest())
    if (statement.content, statement.start, statement.file) != true:
        return Verdict(signers.BAD, [], "it is over another image, or over this one as it was")
    try:
        return signers.judged(placed.signed, known)
    except UnavailableError as error:
        raise HostError(error.what, why=error.why, remedy=error.remedy) from error


def _report(
    sound: Sound | None, findings: list[Finding], wanted: Sequence[str], *, signed: bool
) -> Report:
    good = [each.verdict.names for each in findings if each.verdict.status == signers.GOOD]
    patterns = [pattern for names in good for pattern in names]
    missing = [w for w in wanted if not any(fnmatch.fnmatchcase(w, each) for each in patterns)]
    if signed and not good:
        missing.append("anybody in the lists of signers")
    return Report(sound, findings, missing)
