"""Whose signature it is: asked of ssh-keygen, which reads allowed_signers(5) and revoked keys.

No file is written for it: all that it reads lies in memory.
"""

import base64
import os
import stat
import subprocess
import time

from singrun.errors import UnavailableError, printable
from singrun.signatures.sshsig import NAMESPACE
from singrun.signatures.statement import Signed

GOOD, UNKNOWN, REFUSED, BAD = "good", "unknown", "refused", "bad"
ALLOWED, REVOKED = "/etc/singbuild/allowed_signers", "/etc/singbuild/revoked_keys"
_SKEW = 600  # seconds that another host's clock may be ahead
_DIRECTORIES = ("/usr/bin", "/bin", "/usr/local/bin")
_LARGEST = 1 << 22  # bytes of a list of signers


class Signers:
    """Lists of signers and of revoked keys, as paths of files that are there."""

    def __init__(self, allowed: "list[str]", revoked: "list[str]") -> None:
        self.allowed, self.revoked = allowed, revoked


class Verdict:
    """The verdict on a signature.

    status: GOOD; UNKNOWN, for a sound signature by nobody in the lists; REFUSED, by somebody who
    may not (revoked, expired); BAD. names: the signer's principals; reason: why not GOOD.
    """

    def __init__(self, status: str, names: "list[str]", reason: str = "") -> None:
        self.status, self.names, self.reason = status, names, reason


def judged(signed: Signed, signers: Signers) -> Verdict:
    """Return the verdict on a signature of a statement; not whether the statement is true.

    UnavailableError: there is no ssh-keygen, or it does not work here.
    """
    text, date = signed.statement.text().encode(), signed.statement.date
    with _Memory() as memory:
        words = ["-n", NAMESPACE, "-s", memory.file(signed.signature.armored().encode())]
        done = _keygen("check-novalidate", words, text, memory)
        if done.returncode and b"Could not verify" not in done.stdout:  # it has not looked
            raise _no_answer(done.stderr)
        if done.returncode:
            return Verdict(BAD, [], "its signature is not over this image, or is damaged")
        at = _seconds(date)
        if at is None or at > time.time() + _SKEW:
            return Verdict(REFUSED, [], "its date is in the future, or is none")
        reasons = []
        for path in signers.allowed:
            verdict = _by_list(signed, path, signers.revoked, words, memory)
            if verdict.status == GOOD:
                return verdict
            reasons += [verdict] if verdict.status == REFUSED else []
        return reasons[0] if reasons else Verdict(UNKNOWN, [], "its key is in no list of signers")


def _by_list(
    signed: Signed, path: str, revoked: "list[str]", words: "list[str]", memory: "_Memory"
) -> Verdict:
    """Return what one list says of a signature that is sound."""
    text, then = signed.statement.text().encode(), signed.statement.date
    then = f"-Overify-time={then.replace('T', '').rstrip('Z')}"
    allowed = ["-f", memory.copy(path)]
    words = [*words, *allowed]
    answer = _keygen("find-principals", [*words[2:]], b"", memory)
    names = answer.stdout.decode(errors="replace").splitlines() if not answer.returncode else []
    reason = "its key is not valid today" if _is_named(signed, path) else ""
    for name in names:
        # Twice, as ssh-keygen looks at one moment: a key has to be valid today, and when it signed.
        if _keygen("verify", ["-I", name, *words], text, memory).returncode:
            reason = "its key may not sign images, or is not valid today"
        elif _keygen("verify", ["-I", name, then, *words], text, memory).returncode:
            reason = "its key was not valid on the day it signed"
        elif any(
            _keygen(
                "verify", ["-I", name, "-r", memory.copy(each), *words], text, memory
            ).returncode
            for each in revoked
        ):
            return Verdict(REFUSED, [name], "its key is revoked")
        else:
            return Verdict(GOOD, names)
    return Verdict(REFUSED, names, reason) if reason else Verdict(UNKNOWN, [])


def _is_named(signed: Signed, path: str) -> bool:
    """Whether the key stands in a list, whatever the list says of it."""
    with open(path, "rb") as file:
        return base64.b64encode(signed.signature.key) in file.read(_LARGEST)


def _seconds(date: str) -> "int | None":
    """Return a date as seconds since 1970, None if there is no such day or hour."""
    import calendar

    try:
        return calendar.timegm(time.strptime(date, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        return None


def program() -> str:
    """Return the path of ssh-keygen. UnavailableError: there is none."""
    for directory in _DIRECTORIES:
        if os.access(f"{directory}/ssh-keygen", os.X_OK):
            return f"{directory}/ssh-keygen"
    what, remedy = "There is no ssh-keygen on this host", "Install the package openssh-client."
    raise UnavailableError(what, why="It checks signatures.", remedy=remedy)


def _keygen(
    action: str, words: "list[str]", text: bytes, memory: "_Memory"
) -> "subprocess.CompletedProcess[bytes]":
    # UTC: without a zone ssh-keygen takes a time as the host's, and before 9.1 it knows no zone.
    environment = {"LC_ALL": "C", "TZ": "UTC0"}
    return subprocess.run(
        [program(), "-Y", action, *words],
        input=text,
        capture_output=True,
        env=environment,
        pass_fds=memory.fds,
        check=False,
    )


def _no_answer(complaint: bytes) -> UnavailableError:
    last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
    return UnavailableError(
        "ssh-keygen cannot check signatures here",
        why=printable(last) or "It ended without a word.",
        remedy="It needs an entry of its user in /etc/passwd."
        if last.startswith("No user")
        else "Try it: ssh-keygen -Y check-novalidate",
    )


class _Memory:
    """Files in memory for a program that wants paths; they are gone with the with-block."""

    def __init__(self) -> None:
        self.fds: list[int] = []
        self._copies: dict[str, str] = {}

    def __enter__(self) -> "_Memory":
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self.fds:
            os.close(fd)

    def file(self, data: bytes) -> str:
        """Return the path of a file with this content."""
        self.fds.append(os.memfd_create("singrun"))
        os.write(self.fds[-1], data)
        return f"/proc/self/fd/{self.fds[-1]}"

    def copy(self, path: str) -> str:
        """Return the path of a copy of a file, the same for all that is asked of it here."""
        if path not in self._copies:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                if stat.S_ISFIFO(os.fstat(fd).st_mode):  # it would be read as an empty list
                    raise UnavailableError(f"Cannot read {path}", why="It is a FIFO.")
                self._copies[path] = self.file(file.read(_LARGEST))
        return self._copies[path]
