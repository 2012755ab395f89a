"""Clear-signed texts, made and checked by gpg with the user's keyring, or with keys of files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from singbuild import command
from singbuild.errors import HostError
from singrun.signatures import signers

KEY_START = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"
START = b"-----BEGIN PGP SIGNED MESSAGE-----"
_PASSED = ("GNUPGHOME", "GPG_TTY", "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "TERM")
_LARGEST = 1 << 24  # bytes of a text, however small it is packed
_REFUSALS = {
    "EXPSIG": "it has expired",
    "EXPKEYSIG": "its key has expired",
    "REVKEYSIG": "its key is revoked",
}


@dataclass(frozen=True)
class Checked:
    """The verdict of gpg on a clear-signed text. text: what was verified, b"" for nothing."""

    status: str
    reason: str
    names: tuple[str, ...]
    fingerprint: str
    date: str
    text: bytes


def _environment(home: Path | None) -> dict[str, str]:
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    return command.environment(passed | ({"GNUPGHOME": str(home)} if home else {}))


def signed(text: bytes, key: str) -> tuple[bytes, str]:
    """Return a text clear-signed, and the fingerprint of the key. Raises HostError.

    key: as gpg takes it, "" for its default key.
    """
    with tempfile.TemporaryDirectory(prefix="singbuild-sign-") as place:
        plain, out, status_file = (Path(place, name) for name in ("text", "text.asc", "status"))
        plain.write_bytes(text)
        user = ["--local-user", key] if key else []
        words: list[str | Path] = [
            "gpg",
            "--quiet",
            "--digest-algo",
            "SHA256",
            "--status-file",
            status_file,
            *user,
        ]
        words += ["--output", out, "--clearsign", plain]
        command.attended(words, env=_environment(None), package="gpg")
        rows = [line.split() for line in status_file.read_text().splitlines()]
        return out.read_bytes(), next(row[-1] for row in rows if row[1:2] == ["SIG_CREATED"])


def checked(data: bytes, keyrings: Sequence[Path] | None) -> Checked:
    """Return what gpg says of a clear-signed text, by these files of keys.

    keyrings: None for the user's keyring. Raises HostError: there is no gpg.
    """
    with tempfile.TemporaryDirectory(prefix="singbuild-verify-") as place, _home(keyrings) as home:
        file, out, status_file = (Path(place, name) for name in ("signed", "text", "status"))
        file.write_bytes(data)
        # No keys from servers: a signature must not choose whom gpg asks. And nothing by SHA-1,
        # for which collisions are known.
        words: list[str | Path] = ["gpg", "--batch", "--no-auto-key-retrieve", "--no-tty"]
        words += ["--weak-digest", "SHA1", "--max-output", str(_LARGEST)]
        words += ["--status-file", status_file, "--output", out, "--decrypt", file]
        command.call(words, env=_environment(home), package="gpg")
        rows = status_file.read_text(errors="replace").splitlines() if status_file.exists() else []
        text = out.read_bytes() if out.exists() else b""
    return _judged([row.split()[1:] for row in rows if len(row.split()) > 1], text)


@contextmanager
def _home(keyrings: Sequence[Path] | None) -> Iterator[Path | None]:
    """Yield a GNUPGHOME with the keys of some files alone; None for the user's own."""
    if keyrings is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="singbuild-gpg-") as place:
        home = Path(place)
        env = _environment(home)
        # An agent would outlive the temporary home that it was started for.
        words: list[str | Path] = ["gpg", "--batch", "--quiet", "--no-autostart", "--import"]
        if keyrings:
            command.run([*words, *keyrings], env=env, package="gpg")
        yield home


def _judged(rows: list[list[str]], text: bytes) -> Checked:
    """Read the lines of --status-file. GnuPG, doc/DETAILS."""
    by_word = {row[0]: row[1:] for row in rows}
    signatures = [row for row in rows if row[0] == "NEWSIG"]
    valid = by_word.get("VALIDSIG", [])
    date = _date(valid[2]) if len(valid) > 2 else ""
    fingerprint = valid[-1] if valid else by_word.get("ERRSIG", [""])[0]
    if len(signatures) > 1:
        return Checked(signers.BAD, "it has more than one signer", (), fingerprint, date, b"")
    for word, reason in _REFUSALS.items():
        if word in by_word:
            name = " ".join(by_word[word][1:])
            return Checked(signers.REFUSED, reason, (name,), fingerprint, date, text)
    if "GOODSIG" in by_word and valid:
        name = " ".join(by_word["GOODSIG"][1:])
        return Checked(signers.GOOD, "", (name, fingerprint), fingerprint, date, text)
    if "NO_PUBKEY" in by_word:
        reason = "its key is in no keyring, so nothing was checked"
        return Checked(signers.UNKNOWN, reason, (), fingerprint, date, b"")
    return Checked(signers.BAD, "gpg does not accept it", (), fingerprint, date, b"")


def _date(word: str) -> str:
    try:
        moment = datetime.fromtimestamp(int(word), UTC)
    except (ValueError, OverflowError, OSError):
        raise HostError(f"gpg tells a date that is none: {word}") from None
    return moment.strftime("%Y%m%dT%H%M%SZ")
