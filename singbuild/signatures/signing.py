"""Puts signatures on an image: its content is verified first, and what was verified is signed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from singbuild import ssh_key
from singbuild.errors import ImageError, SignatureError, UsageError
from singbuild.signatures import image_file, report, sif_file, sif_signatures
from singbuild.signatures.image_file import ImageFile, Placed
from singbuild.signatures.sif_file import SifFile
from singrun.signatures import signers, sshsig, statement
from singrun.signatures.statement import Signed, Statement


def statement_of(path: Path, date: str, claim: str = statement.SIGNED) -> Statement:
    """Return what a signature of an image signs. Raises ImageError: it is not as it was built.

    date: as 20261129T210000Z.
    """
    with image_file.opened(path) as file:
        return _statement(file, date, claim)


def _statement(file: ImageFile, date: str, claim: str) -> Statement:
    sound = report.content(file)
    return Statement(sound.digest if sound else "", file.start, file.digest(), date, claim)


def sign(
    path: Path,
    signed: Callable[[Statement], Signed],
    date: str,
    *,
    claim: str = statement.SIGNED,
    beside: Path | None = None,
) -> Placed:
    """Sign an image and return the signature with its place. Raises ImageError, HostError.

    signed: makes the signature; beside: where it is written instead of the image and its own file.
    A signature with the same claim by the same key makes place for this one.
    """
    with image_file.opened(path, beside=beside, write=True) as file:
        own_statement = _statement(file, date, claim)
        new = signed(own_statement)
        with file.alone():
            if file.boot and statement.recorded(file.boot)[0] != (
                own_statement.content * bool(file.start)
            ):
                raise ImageError(f"{path} was changed while it was signed", remedy="Sign it again.")
            # Those in the boot block of an image that is not written stay as they are.
            old = [p for p in file.signatures() if file.writable or p.place == file.beside.name]
            same = [_is_same(p.signed, new) for p in old]
            rows = [p.signed for p, is_same in zip(old, same, strict=True) if not is_same]
            # In its own place: a signer who is killed has moved nobody's from the image to the
            # file beside it, or back.
            rows.insert(same.index(True) if any(same) else len(rows), new)
            file.store(rows)
            placed = file.signatures()
    armor = new.signature.armored()
    return next(each for each in placed[::-1] if each.signed.signature.armored() == armor)


def _is_same(one: Signed, other: Signed) -> bool:
    return (one.signature.key, one.statement.claim) == (other.signature.key, other.statement.claim)


def by_key(own_statement: Statement, key: Path | None, *, agent: bool) -> Signed:
    """Return a statement signed by a key: a file's, the agent's, or the user's own."""
    if agent:
        return ssh_key.signed(own_statement, None, ssh_key.agent_key())
    return ssh_key.signed(own_statement, key or ssh_key.default_key())


def added(path: Path, own_statement: Statement) -> Signed:
    """Return what ssh-keygen signed elsewhere. Raises SignatureError: it is over another image."""
    detached = path.with_name(path.name + image_file.BESIDE)
    try:
        text, armor = path.read_text("ascii"), detached.read_text("ascii")
        new = Signed(statement.parsed(text), sshsig.dearmored(armor))
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}", why=f"{error.strerror}.") from error
    except ValueError as error:
        raise SignatureError(f"{detached} cannot be added", why=str(error)) from error
    its_statement = new.statement
    same = (its_statement.content, its_statement.start, its_statement.file) == (
        own_statement.content,
        own_statement.start,
        own_statement.file,
    )
    verdict = signers.judged(new, signers.Signers([], []))
    if not same or verdict.status != signers.UNKNOWN:
        why = verdict.reason if same else "It is over another image."
        raise SignatureError(f"{detached} cannot be added", why=why)
    return new


def remove(path: Path, *, beside: Path | None = None) -> int:
    """Remove an image's signatures; return how many there were. Raises ImageError.

    beside: the file of those that are meant, alone; else all, those of a SIF too.
    """
    with image_file.opened(path, beside=beside, write=True) as file, file.alone():
        sif = None
        if not beside and sif_file.is_sif(file.boot):
            sif = SifFile(str(path), file.fd)
        if not (beside or file.writable) and (file.start or (sif and sif.signatures())):
            raise ImageError(f"{path} is not yours to write", remedy="Work on a copy.")
        count = file.count()
        file.store([])
        return count + (sif.remove_signatures() if sif else 0)


def in_sif(path: Path, key: Path | None, *, scheme: str) -> list[str]:
    """Sign a SIF as Apptainer does, once its content is verified; return the keys' fingerprints.

    scheme, key: as sif_signatures.sign takes them. Raises UsageError, ImageError, HostError.
    """
    with image_file.opened(path, write=True) as file:
        report.content(file)
        return sif_signatures.sign(file, key, scheme=scheme)


def extract(path: Path, directory: Path, *, beside: Path | None) -> None:
    """Write each statement of an image and its SSH signature, as 1 and 1.sig, into a directory."""
    with image_file.opened(path, beside=beside) as file:
        signed = [each.signed for each in file.signatures()]
    directory.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(signed, 1):
        Path(directory, f"{number}").write_text(each.statement.text())
        Path(directory, f"{number}{image_file.BESIDE}").write_text(each.signature.armored())


def as_json(placed: Placed) -> dict[str, Any]:
    """Return a new signature as `sign --json` prints it."""
    own = placed.signed
    return {
        "claim": own.statement.claim,
        "date": own.statement.date,
        "key_type": own.signature.key_type,
        "fingerprint": own.signature.fingerprint,
        "place": placed.place,
    }
