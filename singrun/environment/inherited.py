"""What the program inherits besides its arguments: environment variables and signals."""

import os
import sys

from singrun import syscalls
from singrun.errors import spelling
from singrun.identity import Caller
from singrun.request import MountOptions, Request

SIGINT, SIGPIPE, SIGCHLD, SIGXFSZ = 2, 13, 17, 25
_SIGIGNORE = 33 - 3  # proc(5), /proc/PID/stat, counted from field 3
# -e keeps what tells who the user is and how to talk to the terminal, and nothing else.
# These tell of the caller and not of the software; the image's own count where the caller has none.
CALLERS = (b"HOME", b"USER", b"LOGNAME", b"SHELL", b"TERM")
_CLEAN_NAMES = (*CALLERS, b"TZ", b"LANG", b"LANGUAGE")
# How the network is reached is the host's matter, too.
_PROXIES = (b"http_proxy", b"https_proxy", b"ftp_proxy", b"all_proxy", b"no_proxy")
CLEAN_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# In user namespaces of their own the ranks may not read each other's memory (ptrace(2)). Open MPI
# 4 then warns, and at times hangs (show_help.c); told beforehand, it copies by shared memory.
_VADER = b"OMPI_MCA_btl_vader_single_copy_mechanism"

# Libraries in the caller's home are for the host's Python and R, and not for those of an image,
# which would take them before its own. What the caller or the image has set counts.
_NO_HOME_LIBRARIES = {b"PYTHONNOUSERSITE": b"1", b"R_LIBS_USER": b"/nonexistent"}

# A variable with such a prefix is set inside under the rest of its name, over the image's own.
# Lowest first: where two spellings of one name are set, the later wins.
PREFIXES = (b"SINGULARITYENV_", b"APPTAINERENV_", b"SINGRUNENV_")

# Variables by which a program knows that it is in an image have both prefixes.
_FAMILIES = (b"SINGULARITY_", b"APPTAINER_")
_ENVIRONMENT = b"/.singularity.d/env/91-environment.sh"  # where both would look for %environment

Environment = dict[bytes, bytes]


def caller_environment() -> Environment:
    """Return the caller's environment.

    os.environb will not do: in the C locale Python adds LC_CTYPE to it (PEP 538).
    Of a name given twice the first counts, as for getenv(3).
    """
    with open("/proc/self/environ", "rb", buffering=0) as file:
        words = (file.readall() or b"").split(b"\0")
    pairs = (word.partition(b"=") for word in reversed(words))
    return {name: value for name, equals, value in pairs if name and equals}


def caller_variables(environment: Environment, mounts: MountOptions, caller: Caller) -> Environment:
    """Return those variables that tell of the caller, as they shall be inside."""
    variables = {name: environment[name] for name in CALLERS if name in environment}
    if caller.fakeroot or (caller.home and b"HOME" not in variables):
        variables[b"HOME"] = os.fsencode(caller.home_inside)
    if caller.behind_sudo:
        user = os.fsencode(caller.name)
        variables |= {b"HOME": os.fsencode(caller.home), b"USER": user, b"LOGNAME": user}
        variables[b"SHELL"] = os.fsencode(caller.shell)
    if mounts.home:
        variables[b"HOME"] = os.fsencode(mounts.home[1])
    return variables


def program_environment(
    environment: Environment, image: str, request: Request, caller: Caller
) -> Environment:
    """Return the caller's environment, and what docs/image-format.md adds to it."""
    variables = {
        name: value for name, value in environment.items() if not name.startswith(PREFIXES)
    }
    if request.variables.clean:
        variables = {name: value for name, value in variables.items() if _stays_when_clean(name)}
    if request.variables.clean or spelling():  # Singularity 3 never passes the host's on
        variables[b"PATH"] = CLEAN_PATH
    variables.pop(b"PYTHONHOME", None)  # where the host's Python has its library
    variables = _NO_HOME_LIBRARIES | variables
    path = os.fsencode(image)
    name = path.rpartition(b"/")[2]
    facts = {
        b"CONTAINER": path,
        b"NAME": name,
        b"COMMAND": os.fsencode(request.program.verb),
        b"BIND": os.fsencode(",".join(each.target for each in request.mounts.binds)),
        b"ENVIRONMENT": _ENVIRONMENT,
    }
    if request.program.app:
        facts[b"APPNAME"] = os.fsencode(request.program.app)
    variables |= {family + word: value for word, value in facts.items() for family in _FAMILIES}
    if request.program.verb == "shell":
        variables[b"PS1"] = b"Singularity." + _prompt_name(name) + b"> "
    if request.program.shell:
        variables[b"SINGULARITY_SHELL"] = os.fsencode(request.program.shell)
    alone = request.isolation.no_join or request.isolation.pid or request.image.writable
    if alone and b"PMIX_RANK" in environment and not caller.has_root:
        variables.setdefault(_VADER, b"none")
    return variables | caller_variables(environment, request.mounts, caller)


def _prompt_name(name: bytes) -> bytes:
    """Return a file's name for a prompt, with ? for what a shell would evaluate there.

    A backslash before it would not do: bash, dash and busybox need different numbers of them.
    """
    return bytes(byte if byte > 31 and byte not in b"\\$`!%\x7f" else ord("?") for byte in name)


def restore_signals(*numbers: int) -> None:
    """Give signals back the disposition that the caller had.

    Python ignores SIGPIPE and SIGXFSZ at start-up, the launcher SIGINT, and neither records what
    was before. So the launcher passes its own /proc/PID/stat, from field 3 on, as -X stat=…;
    without it, or where that is empty, the default disposition is taken.
    """
    fields = str(sys._xoptions.get("stat", "")).split()
    ignored = int(fields[_SIGIGNORE]) if len(fields) > _SIGIGNORE else 0
    for number in numbers:
        if ignored >> (number - 1) & 1:
            syscalls.signal_ignore(number)  # one that the launcher sent may still be blocked
        else:
            syscalls.signal_default(number)


def _stays_when_clean(name: bytes) -> bool:
    return name in _CLEAN_NAMES or name.startswith(b"LC_") or name.lower() in _PROXIES
