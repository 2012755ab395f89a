"""Signs with a user's SSH key: ssh-keygen does it, so agents, FIDO keys and passphrases work."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from singbuild import command
from singbuild.errors import HostError, UsageError
from singrun.signatures import signers, sshsig
from singrun.signatures.statement import Signed, Statement

_PACKAGE = "openssh-client"
_DEFAULTS = ("id_ed25519", "id_ed25519_sk", "id_ecdsa", "id_ecdsa_sk", "id_rsa")
_PASSED = (
    *("SSH_AUTH_SOCK", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "SSH_SK_PROVIDER"),
    *("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "TERM"),
)


def _environment() -> dict[str, str]:
    return command.environment({name: os.environ[name] for name in _PASSED if name in os.environ})


def default_key() -> Path:
    """Return the user's key, the first that ssh would take. Raises UsageError: there is none."""
    directory = Path.home() / ".ssh"
    for name in _DEFAULTS:
        if os.path.isfile(directory / name):  # noqa: PTH113 - False where the home is closed, too
            return directory / name
    raise UsageError(
        f"there is no SSH key in {directory}",
        remedy="Make one with ssh-keygen -t ed25519, or name it: --key FILE",
    )


def agent_key() -> str:
    """Return the public key that the agent has. Raises UsageError: none, or more than one."""
    lines: list[str] = []
    words = ["ssh-add", "-L"]
    done = command.call(words, env=_environment(), on_line=lines.append, package=_PACKAGE)
    if done.status:
        why = " ".join(done.tail)
        raise UsageError("the SSH agent has no key", why=why, remedy="Add one: ssh-add FILE")
    if len(lines) > 1:
        raise UsageError(
            f"the SSH agent has {len(lines)} keys",
            why="\n".join(lines),
            remedy="Name the file of one's public key: --key FILE.pub",
        )
    return lines[0]


def signed(statement: Statement, key: Path | None, public: str = "") -> Signed:
    """Return a statement with a signature. Raises HostError: ssh-keygen made none.

    key: a file with a private key, or with the public key of one that the agent has; public: the
    latter itself.
    """
    if key and not key.exists():
        raise UsageError(f"there is no file {key}", remedy="Name a file with an SSH key.")
    with tempfile.TemporaryDirectory(prefix="singbuild-sign-") as place:
        text = Path(place, "statement")
        text.write_text(statement.text())
        if not key:
            key = Path(place, "agent.pub")
            key.write_text(public + "\n")
        words: list[str | Path] = [
            "ssh-keygen",
            "-Y",
            "sign",
            "-q",
            "-n",
            sshsig.NAMESPACE,
            "-f",
            key,
            text,
        ]
        command.attended(words, env=_environment(), package=_PACKAGE)
        new = Signed(statement, sshsig.dearmored(text.with_suffix(".sig").read_text()))
    if signers.judged(new, signers.Signers([], [])).status == signers.BAD:
        raise HostError("ssh-keygen made a signature that it does not accept itself")
    return new
