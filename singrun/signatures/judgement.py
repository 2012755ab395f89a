"""Reads all of an image's file and has its signatures judged: images/verdicts.py remembers it."""

import contextlib
import os
import stat
from hashlib import sha256

from singrun.signatures import signers, statement
from singrun.signatures.statement import BOOT_BLOCK

_PIECE = 1 << 20


def start(fd: int) -> int:
    """Return the first byte that is signed, as singbuild's signatures/image_file.py has it."""
    return BOOT_BLOCK if statement.recorded(os.pread(fd, BOOT_BLOCK, 0))[0] else 0


def digest(fd: int) -> str:
    """Return the digest of all bytes that are signed."""
    total, at = sha256(), start(fd)
    while piece := os.pread(fd, _PIECE, at):
        total.update(piece)
        at += len(piece)
    return f"sha256:{total.hexdigest()}"


def names(
    fd: int, beside: str, actual: str, allowed: "list[str]", revoked: "list[str]"
) -> "list[str]":
    """Return the principals whose good signatures are over a file with the digest ``actual``.

    Those that say it was rebuilt are not among them: they vouch for the build, not for the image.
    """
    boot, first = os.pread(fd, BOOT_BLOCK, 0), start(fd)
    content = statement.recorded(boot)[0]
    lists = signers.Signers(_there(allowed), _there(revoked))
    names: list[str] = []
    for each in _signatures(boot, beside):
        own = each.statement
        # A file without a boot block of ours records no content that could be another.
        true = (first, actual, content or own.content)
        is_over_it = (own.start, own.file, own.content) == true
        if is_over_it and own.claim == statement.SIGNED:
            verdict = signers.judged(each, lists)
            names += verdict.names if verdict.status == signers.GOOD else []
    return names


def _there(paths: "list[str]") -> "list[str]":
    return [path for path in paths if os.path.exists(path)]


def _signatures(boot: bytes, beside: str) -> "list[statement.Signed]":
    """Return what can be read as signatures; nobody is helped by what cannot."""
    rows: list[statement.Signed] = []
    with contextlib.suppress(ValueError):
        rows += statement.in_boot_block(boot)
    with contextlib.suppress(OSError, ValueError):
        data = _read(beside)
        if len(data) <= statement.LONGEST:
            rows += statement.in_text(data.decode("ascii"))
    return rows


def _read(path: str) -> bytes:
    """Return a regular file's bytes, one more than a file beside an image may have at most."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)  # a FIFO would keep us waiting
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        return os.pread(fd, statement.LONGEST + 1, 0)
    finally:
        os.close(fd)
