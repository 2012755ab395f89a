"""Checks that every package is signed by a key of the keyring: gpgv(1), GnuPG's doc/DETAILS."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from singbuild import RecipeKeyError, Source, SourceError, command
from singbuild.download import fetch

LARGEST = 16 << 10  # bytes of a signature; Arch Linux's have 600 at most
WEAK = ("SHA1", "RIPEMD160")
# What speaks against a signature, whatever else is said of it.
BAD = {"BADSIG", "ERRSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "NO_PUBKEY", "FAILURE", "NODATA"}


def check_signatures(files: Mapping[str, Path], keyring: Path, source: Source) -> None:
    """Let gpgv look at each package, by its URL, with these keys. Raises SourceError.

    A key that the file beside the keyring, NAME-revoked, lists does not count: pacman-key(8).
    """
    beside = keyring.with_name(f"{keyring.stem}-revoked")
    revoked = set(beside.read_text().split()) if beside.is_file() else set()
    with tempfile.TemporaryDirectory() as place:
        keys = _dearmored(keyring, Path(place, "keys.gpg"))
        wrong = []
        for number, (url, file) in enumerate(files.items(), 1):
            source.report.progress("Checking signatures", number, len(files))
            signature = fetch(
                f"{url}.sig", source.cache, report=_Silent(source), size_limit=LARGEST
            )
            if reason := _complaint(signature.path, file, keys, revoked):
                wrong.append(f"{url.rpartition('/')[2]}: {reason}")
    if wrong:
        raise SourceError(
            f"{len(wrong)} package{'s are' if len(wrong) != 1 else ' is'} not signed by a key "
            f"of {keyring}",
            why="\n".join(wrong[:20]),
            remedy="Name the keys of whoever made the packages with Keyring, bring the package "
            "that has them up to date, or use a mirror that you trust.",
        )


def _dearmored(keyring: Path, target: Path) -> Path:
    """Write the keys as gpgv reads them. Raises RecipeKeyError."""
    if not keyring.read_bytes().startswith(b"-----BEGIN"):
        return keyring
    done = command.call(["gpg", "--batch", "--output", target, "--dearmor", keyring])
    if done.status:
        raise RecipeKeyError(
            "Keyring", f"Keyring: {keyring}: holds no keys", why="\n".join(done.tail)
        )
    return target


def _complaint(signature: Path, file: Path, keys: Path, revoked: set[str]) -> str:
    """Return what speaks against a package; nothing does when there is a good signature."""
    argv: list[command.Word] = ["gpgv", "--status-fd=1", f"--keyring={keys}"]
    argv += [f"--weak-digest={name}" for name in WEAK]
    lines: list[str] = []
    done = command.call([*argv, signature, file], on_line=lines.append)
    status = [words[1:] for words in map(str.split, lines) if words[:1] == ["[GNUPG:]"]]
    keywords = {words[0] for words in status}
    valid = [words for words in status if words[0] == "VALIDSIG"]
    # The last word is the fingerprint of the primary key; class 00 signs a file, not a text.
    if any(words[-1] in revoked for words in valid):
        return "signed with a key that is revoked"
    if valid and not done.status and not keywords & BAD and all(w[9] == "00" for w in valid):
        return ""
    if "BADSIG" in keywords:
        return "the signature does not fit: somebody changed one of them"
    lacking = ", ".join(words[-1] for words in status if words[0] == "NO_PUBKEY")
    sentences = [line for line in lines if line.startswith("gpgv:")]
    return (
        f"signed with the key {lacking}" if lacking else "; ".join(sentences[-2:]) or "no signature"
    )


class _Silent:
    """A reporter that shows no progress of its own: these files have 500 bytes each."""

    def __init__(self, source: Source) -> None:
        self.line, self.warn = source.report.line, source.report.warn

    def progress(self, label: str, done: int, total: int) -> None:
        """Show nothing."""
