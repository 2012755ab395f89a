"""What is executed inside: the image's action, or what older images have in its place."""

import errno
import os

from singrun.environment import assignments, why
from singrun.environment.inherited import CLEAN_PATH, Environment
from singrun.environment.variables import Override, literal_assignments
from singrun.errors import RunError, say, spelling
from singrun.request import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_ACTIONS, _STARTSCRIPT = "/.singularity.d/actions", "/.singularity.d/startscript"
_OLDER = {"exec": "/.exec", "run": "/.run", "shell": "/.shell", "test": "/.test"}
# What each root has of its own: a file that is missing there is not for want of a bind.
_OWN = (
    *("/bin/", "/boot/", "/dev/", "/etc/", "/lib/", "/lib64/", "/opt/", "/proc/", "/run/"),
    *("/sbin/", "/sys/", "/usr/", "/var/lib/"),
)
_LOOK = b"""command -v -- "$1" >/dev/null || {
    printf 'FATAL:   "%s": executable file not found in $PATH\\n' "$1" >&2
    exit 255
}
exec "$@"
"""
_APPS = "/scif/apps"
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # POSIX, Shell Command Language, 2.8.2


def check_app(program: Program) -> None:
    """Refuse an app that the image has not got."""
    if program.app and not os.path.isdir(f"{_APPS}/{program.app}/scif"):
        apps = ", ".join(sorted(os.listdir(_APPS))) if os.path.isdir(_APPS) else ""
        why = f"Its apps are: {apps}." if apps else "It has none."
        raise RunError(f"There is no app {program.app} in the image", why=why)


def execute(
    program: Program,
    variables: Environment,
    caller_variables: Environment,
    overrides: list[Override],
) -> "NoReturn":
    """Become the action for the verb; see docs/image-format.md, "The actions"."""
    if program.why:
        _become("/bin/sh", why.arguments(program.why, caller_variables, overrides), variables)
    verb, words = program.verb, program.arguments
    if verb == "env":
        verb, words = "exec", ["env"]
    if verb == "start":
        script = f"{_APPS}/{program.app}/scif/startscript" if program.app else _STARTSCRIPT
        if not os.access(script, os.X_OK):
            os._exit(0)  # an instance may have nothing to do
        verb, words = "exec", [script, *words]
    if verb == "shell" and not words and os.isatty(0):
        os.write(2, b"Singularity: Invoking an interactive shell within container...\n\n")
    without_shell = verb == "exec" and not os.path.lexists("/bin/sh")
    if without_shell:
        variables = {**variables, **literal_assignments(), **caller_variables}
    for each in overrides:
        variables[each.name] = each.apply_to(variables.get(each.name, b""))
    arguments = [os.fsencode(word) for word in words]
    if verb == "exec" and spelling() and not without_shell:
        arguments = _checked(arguments, variables)
    if not without_shell:
        if verb == "exec":
            _become_by_assignments(arguments, variables)
        for path in (f"{_ACTIONS}/{verb}", _OLDER[verb]):
            _become(path, arguments, variables)
    if verb == "exec":
        _become_command(arguments, variables)
    if verb == "test":
        raise RunError("The image holds no test", remedy="Build it with a section %test.")
    if verb == "run":
        _become("/singularity", arguments, variables)
    _become("/bin/sh", arguments, variables)
    raise RunError("Container does not have a valid /bin/sh")


def host_paths(words: list[str]) -> list[str]:
    """Return the arguments that name files of the host by absolute paths."""
    return [
        word
        for word in words
        if word.startswith("/") and not word.startswith(_OWN) and os.path.exists(word)
    ]


def tell_missing(paths: list[str]) -> None:
    """Say of the first of these paths that is missing inside how it is shared."""
    for path in paths:
        if not os.path.exists(path):
            directory = os.path.dirname(path)
            directory = path if directory == "/" else directory  # which cannot be bound
            say(missing_text(path, directory))
            return


def missing_text(path: str, directory: str) -> str:
    """Return what is said of a path of the host that is not there inside."""
    return (
        f"{path} is not shared with the image\n"
        f"  Add --bind {directory}, or set SINGRUN_BIND={directory}"
    )


def _checked(arguments: list[bytes], variables: Environment) -> list[bytes]:
    """Return arguments whose command is there, or that end as Singularity 3 does if it is not.

    A PATH of the image's scripts is known to its shell only, which looks where nothing is found.
    """
    name = arguments[0]
    directories = variables.get(b"PATH", b"").split(b":") + CLEAN_PATH.split(b":")
    if b"/" not in name:
        if any(os.access(directory + b"/" + name, os.X_OK) for directory in directories):
            return arguments
        return [b"/bin/sh", b"-c", _LOOK, name, *arguments]
    if os.path.exists(name):
        if not (os.path.isfile(name) and os.access(name, os.X_OK)):
            raise RunError(f"{os.fsdecode(name)}: permission denied")
        return arguments
    raise RunError(f"stat {os.fsdecode(name)}: no such file or directory")


def _become(path: str, arguments: list[bytes], variables: Environment) -> None:
    """Execute ``path`` in place of this process; return if there is no such file."""
    try:
        os.execve(path, [os.fsencode(path), *arguments], variables)
    except OSError as error:
        # ENOENT is of a missing interpreter, too: execve(2).
        if error.errno != errno.ENOENT or os.path.exists(path):
            raise _cannot(path, error) from None


def _become_by_assignments(arguments: list[bytes], variables: Environment) -> None:
    """Execute a command without the image's shell; return where that shell has to do it."""
    name = arguments[0] if arguments else b""
    if not name or name.startswith(b"-") or b"%" in name:
        return
    exported = assignments.without_shell(variables)
    if exported is None:
        return
    directories = exported.get(b"PATH", b"").split(b":")
    for each in [b""] if b"/" in name else directories:
        try:
            os.execve(each + b"/" + name if each else name, arguments, exported)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                return  # a script without a first line, perhaps: the shell reads it


def _become_command(arguments: list[bytes], variables: Environment) -> "NoReturn":
    """Execute a command by its name, as a shell would, in an image without actions.

    os.execvpe is of no use here: it imports a module, and the host's files are gone.
    """
    name = arguments[0]
    why = "" if os.path.lexists("/bin/sh") else "Container does not have a valid /bin/sh, either."
    refused = RunError(f"There is no command {os.fsdecode(name)} in the image", why=why)
    refused.status = _NOT_FOUND
    directories = variables.get(b"PATH", CLEAN_PATH).split(b":")
    for path in [name] if b"/" in name else [directory + b"/" + name for directory in directories]:
        try:
            os.execve(path, arguments, variables)
        except OSError as error:
            # The search goes on, as in execvp(3) after EACCES: it counts if no other
            # directory has the file.
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                refused = _cannot(os.fsdecode(path), error)
                refused.status = _NOT_EXECUTABLE
    if spelling():
        refused.status = RunError.status
    raise refused


def _cannot(path: str, error: OSError) -> RunError:
    why, remedy = f"{error.strerror}.", ""
    if error.errno == errno.ENOENT:
        why = "Container does not have a valid /bin/sh: what its first line names is missing."
    if error.errno == errno.ENOEXEC:
        machine = os.uname().machine
        why = f"It, or the image's /bin/sh, is no program for this machine ({machine})."
    if error.errno == errno.E2BIG:
        remedy = "Pass fewer or shorter arguments, or a smaller environment."
    return RunError(f"Cannot execute {path} in the image", why=why, remedy=remedy)
