"""``--contents``: an image's file is read and compared with what was recorded, before it runs."""

import os

from singrun.errors import RunError
from singrun.images.image import SANDBOX, Image
from singrun.images.pulled import builder
from singrun.signatures import judgement, statement


def check(image: Image) -> None:
    """Compare an open image with its record. RunError: it differs, or has none.

    A signed file records the digest of its bytes. Any other is singbuild's to verify.
    """
    recorded = ""
    if image.kind != SANDBOX:
        recorded = statement.recorded(os.pread(image.fd, statement.BOOT_BLOCK, 0))[1]
    if recorded:
        if judgement.digest(image.fd) != recorded:
            why = "Its bytes are not those that its first kilobyte records."
            raise RunError(f"{image.path} is damaged", why=why, remedy="Copy or build it again.")
        return
    path = f"/proc/{os.getpid()}/fd/{image.fd}"
    null = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, 2, 1)]
    words = [builder("It verifies images without a signature."), "verify", path]
    child = os.posix_spawn(words[0], words, os.environ, file_actions=actions)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(null)
    if status:
        why = f"singbuild verify ended with status {status}; what it said stands above."
        raise RunError(f"{image.path} is not run", why=why)
