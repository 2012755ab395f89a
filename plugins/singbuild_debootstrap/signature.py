"""Lets gpgv(1) verify an archive's Release file; returns the bytes that it verified, no others.

gpgv and a parser of ours would not agree on where the signed text of an InRelease file
begins and ends. So that file is never parsed: gpgv writes the text that it verified, and
that is used. The status lines are those of GnuPG's doc/DETAILS.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from singbuild import SourceError, command

BEGIN, END = b"-----BEGIN PGP SIGNED MESSAGE-----\n", b"\n-----END PGP SIGNATURE-----"
LARGEST = 16 << 20  # bytes of a Release file; Debian's has 150 KB
WEAK = ("SHA1", "RIPEMD160")  # as apt has it; gpgv itself refuses MD5
# What gpgv says of a signature that counts, and of text that it writes.
SOUND = {"NEWSIG", "KEY_CONSIDERED", "SIG_ID", "GOODSIG", "VALIDSIG", "PLAINTEXT"}
SOUND |= {"PLAINTEXT_LENGTH", "NOTATION_NAME", "NOTATION_FLAGS", "NOTATION_DATA", "POLICY_URL"}
WITH_OLD_KEY = {"EXPKEYSIG", "KEYEXPIRED"}
NO_PUBLIC_KEY = "9"  # the reason in an ERRSIG line

Status = list[list[str]]


def inline_text(content: bytes, url: str, keyring: Path, *, old_keys: bool) -> bytes:
    """Return the signed text of an InRelease file. Raises SourceError.

    old_keys: a signature counts although its key has expired since.
    """
    if not content.startswith(BEGIN) or not content.rstrip(b"\n").endswith(END):
        raise _refused(url, "there is no signature, or text before or behind what it signs")
    with tempfile.TemporaryDirectory() as place:
        file, text = Path(place, "InRelease"), Path(place, "text")
        file.write_bytes(content)
        status = _verify([f"--output={text}"], [file], url, keyring, old_keys=old_keys)
        if [words[0] for words in status].count("PLAINTEXT") != 1:
            raise _refused(url, "it does not hold one signed text")
        return text.read_bytes()


def detached_text(
    content: bytes, signature: bytes, url: str, keyring: Path, *, old_keys: bool
) -> bytes:
    """Return a Release file once its Release.gpg is verified. Raises SourceError."""
    with tempfile.TemporaryDirectory() as place:
        file, beside = Path(place, "Release"), Path(place, "Release.gpg")
        file.write_bytes(content)
        beside.write_bytes(signature)
        status = _verify([], [beside, file], url, keyring, old_keys=old_keys)
        # A text signature (class 01) does not cover the blanks at the ends of lines.
        if any(words[0] == "VALIDSIG" and words[9] != "00" for words in status):
            raise _refused(url, "it is a signature of a text, not of a file")
    return content


def _verify(
    options: list[str], files: list[Path], url: str, keyring: Path, *, old_keys: bool
) -> Status:
    """Execute gpgv; return its status lines. Raises SourceError unless a signature counts.

    All must be good but those whose keys this host lacks: archives sign with a new key and
    an old one for years.
    """
    # --ignore-time-conflict, as apt has it (apt-pkg/contrib/gpgv.cc): a host whose clock is slow
    # would take a new key for one of the future.
    argv = ["gpgv", "--status-fd=1", f"--keyring={keyring}", "--ignore-time-conflict"]
    argv += [f"--weak-digest={name}" for name in WEAK]
    lines: list[str] = []
    # gpgv unpacks what is compressed before it looks at any signature.
    bounded: list[command.Word] = ["prlimit", f"--fsize={LARGEST}", *argv, *options, *files]
    done = command.call(bounded, on_line=lines.append)
    status = [words[1:] for words in map(str.split, lines) if words[:1] == ["[GNUPG:]"]]
    lacking = {words[-1] for words in status if words[0] == "NO_PUBKEY"}
    keywords = {words[0] for words in status if not _is_without_key(words)}
    is_sound = "VALIDSIG" in keywords and keywords <= SOUND | WITH_OLD_KEY
    if is_sound and done.status == (2 if lacking else 0) and ("GOODSIG" in keywords or old_keys):
        return status
    if "BADSIG" in keywords:
        raise _refused(url, "the signature does not fit the text: somebody changed one of them")
    if is_sound and "GOODSIG" not in keywords:
        raise _refused(
            url,
            "the key that signed it has expired since",
            "Use a mirror that is kept up to date; for a suite that is signed no more, "
            "write AllowExpired: yes.",
        )
    if lacking and not keywords - SOUND:
        keys = ", ".join(sorted(lacking))
        raise _refused(url, f"it is signed with keys that are not in {keyring}: {keys}")
    raise _refused(url, "\n".join(line for line in lines if line.startswith("gpgv:")))


def _is_without_key(words: list[str]) -> bool:
    """Whether a status line says no more than that this host lacks a key."""
    return words[0] == "NO_PUBKEY" or (words[0] == "ERRSIG" and words[6:7] == [NO_PUBLIC_KEY])


def _refused(url: str, why: str, remedy: str = "") -> SourceError:
    return SourceError(
        f"{url}: its signature cannot be verified",
        why=why or "there is no signature",
        remedy=remedy or "Use a mirror that you trust, or name the file of its keys with Keyring.",
    )
