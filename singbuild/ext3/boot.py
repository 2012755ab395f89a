"""The boot block: 1,024 bytes before the superblock, which ext3 leaves to others.

The kernel reads its first line when the file is executed. The second is a
comment to any shell and records the digest of the content; the third tells what
executes the file. Signatures may follow, which a seal never writes.
"""

import re

from singrun.signatures import statement

BOOT_BLOCK = 1024
LAUNCH_LINE = b"#!/usr/bin/env singrun\n"
_RECORD = re.compile(rb"# content sha256:([0-9a-f]{64})\n")


def boot_block(digest: bytes) -> bytes:
    """Return the boot block of an image. digest: 32 bytes."""
    record = b"# content sha256:%b\n" % digest.hex().encode()
    return (LAUNCH_LINE + record + statement.NOTE).ljust(BOOT_BLOCK, b"\0")


def recorded_digest(boot: bytes) -> str | None:
    """Return "sha256:…" as a boot block records it, or None."""
    match = _RECORD.match(boot, len(LAUNCH_LINE)) if boot.startswith(LAUNCH_LINE) else None
    return f"sha256:{match[1].decode()}" if match else None


def as_sealed(boot: bytes) -> bytes:
    """Return a boot block of ours as a seal writes it now, signed or older than the note."""
    content, _ = statement.recorded(boot)
    return boot_block(bytes.fromhex(content.removeprefix("sha256:"))) if content else boot


def unsigned(boot: bytes) -> bytes:
    """Return a boot block without signatures that stand in order; anything else as it is."""
    return statement.unsigned(boot)
