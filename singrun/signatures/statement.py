"""What a signature says of an image, and where it stands: boot block, or a file beside.

docs/signatures.md, "The bytes". All that is read here is hostile until it is checked.
"""

import re

from singrun.signatures import sshsig

BOOT_BLOCK = 1024
SIGNED, REBUILT = "signed", "rebuilt"
MOST = 64  # signatures in a file beside an image
LONGEST = 1 << 18  # bytes of such a file
_TITLE = "singbuild image signature 1"
_HEX = "sha256:[0-9a-f]{64}"
NOTE = b"# needs singrun, of the Python package singbuild\n"  # for a reader without singrun
_DATE = r"\d{8}T\d{6}Z"
_BOOT = re.compile(
    rf"#!/usr/bin/env singrun\n# content ({_HEX})\n(?:{NOTE.decode()})?"
    rf"(?:# file ({_HEX})\n((?:# signature {_DATE} [a-z]+ [\w+/=]+\n)+))?\0*".encode("ascii"),
    re.ASCII,
)
_LINE = re.compile(r"# signature (\S+) (\S+) (\S+)\n")
_TEXT = re.compile(
    rf"{_TITLE}\n(?:content ({_HEX})\n)?file from byte (0|{BOOT_BLOCK}) ({_HEX})\n"
    rf"date ({_DATE})\nclaim ([a-z]+)\n",
    re.ASCII,
)


class Statement:
    """What is signed.

    content: the digest of the tree, "" where the file records none; start: the byte of the file
    from which on ``file`` is its digest; date: as 20261129T210000Z; claim: SIGNED, or REBUILT.
    """

    def __init__(self, content: str, start: int, file: str, date: str, claim: str) -> None:
        self.content, self.start, self.file = content, start, file
        self.date, self.claim = date, claim

    def text(self) -> str:
        """Return it as it is signed."""
        content = f"content {self.content}\n" if self.content else ""
        file = f"file from byte {self.start} {self.file}\n"
        return f"{_TITLE}\n{content}{file}date {self.date}\nclaim {self.claim}\n"


class Signed:
    """A statement with a signature, which nobody has checked yet."""

    def __init__(self, statement: Statement, signature: sshsig.Signature) -> None:
        self.statement, self.signature = statement, signature


def parsed(text: str) -> Statement:
    """Return a statement. ValueError: it is none."""
    match = _TEXT.fullmatch(text)
    if not match:
        raise ValueError("it is not a statement of singbuild's about an image")
    content, start, file, date, claim = match.groups()
    if claim not in (SIGNED, REBUILT):
        raise ValueError(f"nobody knows what the claim {claim!r} means")
    return Statement(content or "", int(start), file, date, claim)


def recorded(boot: bytes) -> "tuple[str, str]":
    """Return the digests of content and file that a boot block of ours records, or "".

    The second stands only where signatures do.
    """
    match = _BOOT.fullmatch(boot)
    return (match[1].decode(), (match[2] or b"").decode()) if match else ("", "")


def in_boot_block(boot: bytes) -> "list[Signed]":
    """Return the signatures in a boot block of ours. ValueError: one is none."""
    match = _BOOT.fullmatch(boot)
    if not match or not match[2]:
        return []
    content, file = match[1].decode(), match[2].decode()
    signed = []
    for date, claim, packed in _LINE.findall(match[3].decode()):
        statement = parsed(Statement(content, BOOT_BLOCK, file, date, claim).text())
        signed.append(Signed(statement, sshsig.unpacked(packed)))
    return signed


def boot_lines(signed: "list[Signed]") -> bytes:
    """Return what stands for signatures of one file behind the digest of its content."""
    if not signed:
        return b""
    lines = f"# file {signed[0].statement.file}\n"
    for each in signed:
        date, claim = each.statement.date, each.statement.claim
        lines += f"# signature {date} {claim} {each.signature.packed()}\n"
    return lines.encode("ascii")


def unsigned(boot: bytes) -> bytes:
    """Return a boot block of ours without its signatures; anything else as it is."""
    match = _BOOT.fullmatch(boot)
    if not match or not match[2]:
        return boot
    return boot[: match.start(2) - len(b"# file ")].ljust(len(boot), b"\0")


def in_text(text: str) -> "list[Signed]":
    """Return the signatures in the text of a file beside an image. ValueError: one is none."""
    *parts, rest = text.split(sshsig.END + "\n")
    if rest.strip() or not parts:
        raise ValueError("it does not end with a signature")
    if len(parts) > MOST:
        raise ValueError(f"it has more than {MOST} signatures")
    signed = []
    for part in parts:
        statement, begin, armor = part.partition(sshsig.BEGIN)
        signature = sshsig.dearmored(begin + armor + sshsig.END)
        signed.append(Signed(parsed(statement), signature))
    return signed


def as_text(signed: "list[Signed]") -> str:
    """Return the text of a file beside an image: each statement, and its signature below."""
    return "".join(each.statement.text() + each.signature.armored() for each in signed)
