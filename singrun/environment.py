"""What the program inherits besides its arguments: environment variables and signals."""

import os
import sys

from singrun import syscalls

SIGINT, SIGPIPE, SIGXFSZ = 2, 13, 25
_SIGIGNORE = 33 - 3  # proc(5), /proc/PID/stat, counted from field 3
# -e keeps what tells who the user is and how to talk to the terminal, and nothing else.
_KEPT = (b"HOME", b"USER", b"LOGNAME", b"SHELL", b"TERM", b"TZ", b"LANG", b"LANGUAGE")
_CLEAN_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Environment = dict[bytes, bytes]


def inherited() -> Environment:
    """Return the caller's environment.

    os.environb will not do: in the C locale Python adds LC_CTYPE to it (PEP 538).
    Of a name given twice the first counts, as for getenv(3).
    """
    with open("/proc/self/environ", "rb", buffering=0) as file:
        words = (file.readall() or b"").split(b"\0")
    pairs = (word.partition(b"=") for word in reversed(words))
    return {name: value for name, equals, value in pairs if name and equals}


def inner(image: str, verb: str, *, clean: bool) -> Environment:
    """Return the caller's environment, and what docs/image-format.md adds to it."""
    variables = inherited()
    if clean:
        variables = {name: value for name, value in variables.items() if _is_kept(name)}
        variables[b"PATH"] = _CLEAN_PATH
    path = os.fsencode(image)
    name = path.rpartition(b"/")[2]
    variables |= {b"SINGULARITY_CONTAINER": path, b"SINGULARITY_NAME": name}
    if verb == "shell":
        variables[b"PS1"] = b"Singularity." + name + b"> "
    return variables


def restore_signals(*numbers: int) -> None:
    """Give signals back the disposition that the caller had.

    Python ignores SIGPIPE and SIGXFSZ at start-up, the launcher SIGINT, and
    nobody keeps a record, so the launcher passes
    its own /proc/PID/stat, from field 3 on, as -X stat=…; without it the
    default disposition is taken.
    """
    fields = str(sys._xoptions.get("stat", "")).split()
    ignored = int(fields[_SIGIGNORE]) if len(fields) > _SIGIGNORE else 0
    for number in numbers:
        if not ignored >> (number - 1) & 1:
            syscalls.signal_default(number)


def _is_kept(name: bytes) -> bool:
    return name in _KEPT or name.startswith(b"LC_")
