"""The image's scripts evaluated here, where they are nothing but assignments.

To read /bin/sh and its libraries through FUSE takes longer than all else in the image, and most
images have it executed for three lines ``export NAME=value``. What is not certain to come out as
the shell would have it is left to the shell.
"""

import os

from singrun.environment.inherited import Environment
from singrun.mounts.root import Root

OF_BASH = """command -v source >/dev/null || eval 'source() {
    _singularity_file=$1; shift; command . "$_singularity_file"
}'
"""
"""What bash has, and the shell that Apptainer brings along, and dash has not: people write it."""

SOURCE = f"""#!/bin/sh
{OF_BASH}for _singularity_env in /.singularity.d/env/*.sh; do
    case $_singularity_env in  # somebody put a file in the place of the link
        */90-environment.sh)
            [ -h /environment ] || [ ! -f /environment ] || _singularity_env=/environment
            ;;
    esac
    [ -f "$_singularity_env" ] && . "$_singularity_env"
done
unset _singularity_env _singularity_file
"""
"""The beginning of each action. A variable of it hides the caller's: it has a name of its own."""

EXEC = (
    SOURCE
    + """case ${1-} in
    */*) [ -e "$1" ] ;;
    *) command -v "$1" >/dev/null ;;
esac || {
    printf 'There is no command %s in the image\\n' "${1-}" >&2
    exit 127
}
exec "$@"
"""
)
"""The action of ``exec``, in place of which this module may stand."""

_ACTION, _DIRECTORY = "/.singularity.d/actions/exec", "/.singularity.d/env"
_REPLACED = "/environment"
_SHELL, _DASH = "/bin/sh", "dash"  # other shells set more: bash SHLVL and _, BusyBox's SHLVL
_LIMIT = 1 << 16  # bytes of scripts; a megabyte of them would take us longer than it takes a shell
# dash(1) gives them values, or a meaning, of its own.
_SHELLS = frozenset(
    (b"IFS", b"LINENO", b"OPTARG", b"OPTIND", b"PPID", b"PS1", b"PS2", b"PS4", b"PWD", b"OLDPWD")
) | {b"MAIL", b"MAILCHECK", b"MAILPATH", b"ENV", b"_"}
_LETTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_DIGITS = frozenset(b"0123456789")
_PLAIN = _LETTERS | _DIGITS | frozenset(b"./:,@%+=-")  # what a shell takes as it stands


def without_shell(variables: Environment) -> "Environment | None":
    """Return what the action of ``exec`` would export; None where only a shell can tell.

    Called inside. variables: what the action would be executed with.
    """
    text = scripts()
    if text is None:
        return None
    names_of_the_shell = _SHELLS - {b"PWD", b"OLDPWD", b"_"}
    if len(text) > _LIMIT or not names_of_the_shell.isdisjoint(variables):
        return None
    # As dash does: what no script could name is not handed on, and PWD always is.
    environment = {name: value for name, value in variables.items() if _is_name(name)}
    environment.pop(b"_", None)
    if not _is_working_directory(environment.get(b"PWD", b"")):
        return None
    return evaluate(text, environment)


def scripts() -> "bytes | None":
    """Return the scripts that the action of ``exec`` reads; None for another action or shell.

    Called inside. Scripts behind the first _LIMIT bytes are left out: they are a shell's.
    """
    root = Root("/")
    if root.read(_ACTION) != EXEC.encode() or not _is_dash():
        return None
    text = b""
    for name in sorted(root.names(_DIRECTORY)):
        path = f"{_DIRECTORY}/{name}"
        if name.endswith(".sh"):
            if name == "90-environment.sh" and _is_replaced():
                return None
            text += root.read(path) + b"\n"
            if len(text) > _LIMIT:
                break
    return text


def expanded(text: bytes) -> "set[bytes]":
    """Return all names behind a $ in the scripts."""
    return {_name_at(text, at + 1)[0] for at, byte in enumerate(text) if byte == ord("$")} - {b""}


def evaluate(text: bytes, variables: Environment) -> "Environment | None":
    """Return variables after the lines of scripts; None unless each is a comment or an export.

    An export is ``export NAME=WORD`` of one line, a WORD with quotes and $NAME or ${NAME} at most
    (POSIX, Shell Command Language, 2.2 and 2.6.2). Time is linear in the text and the values.
    """
    if b"\0" in text:  # which no variable holds
        return None
    environment = dict(variables)
    room = _LIMIT  # A=$A$A, twenty times over, is a megabyte
    for each in text.split(b"\n"):
        line = each.strip(b" \t")
        if not line or line.startswith(b"#"):
            continue
        keyword, _, assignment = line.partition(b" ")
        name, equals, word = assignment.lstrip(b" ").partition(b"=")
        if keyword != b"export" or not equals or not _is_name(name) or name in _SHELLS:
            return None
        value = _value(word, environment, room)
        if value is None:
            return None
        room -= len(value)
        environment[name] = value
    return environment


def _value(word: bytes, environment: Environment, room: int) -> "bytes | None":
    """Return what a shell makes of a word; None where that is not certain, or over ``room`` bytes.

    A bytearray grows in place: bytes would be copied for each letter.
    """
    value, at, quoted = bytearray(), 0, False
    while at < len(word):
        if len(value) > room:
            return None
        byte = word[at]
        if byte == ord("$"):
            name, at = _name_at(word, at + 1)
            expansion = environment.get(name, b"")
            # Unquoted, dash before 0.5.11 splits it at blanks.
            if not name or name in _SHELLS or not (quoted or _PLAIN.issuperset(expansion)):
                return None
            value += expansion
            continue
        if byte == ord('"'):
            quoted = not quoted
        elif byte == ord("'") and not quoted:
            end = word.find(b"'", at + 1)
            if end < 0:
                return None
            value += word[at + 1 : end]
            at = end
        elif byte in _PLAIN or (quoted and byte not in b"\\`"):
            value += word[at : at + 1]
        elif byte == ord("\\") and not quoted and at + 1 < len(word):
            at += 1
            value += word[at : at + 1]
        else:
            return None
        at += 1
    return None if quoted or len(value) > room else bytes(value)


def _name_at(word: bytes, at: int) -> "tuple[bytes, int]":
    """Return the name behind a $, with or without braces, and where it ends; b"" for none."""
    braces = word[at : at + 1] == b"{"
    start = end = at + braces
    while end < len(word) and (word[end] in _LETTERS or (end > start and word[end] in _DIGITS)):
        end += 1
    if braces and word[end : end + 1] != b"}":
        return b"", end
    return word[start:end], end + braces


def _is_name(name: bytes) -> bool:
    return bool(name) and name[0] in _LETTERS and (_LETTERS | _DIGITS).issuperset(name)


def _is_dash() -> bool:
    try:
        return os.readlink(_SHELL).rpartition("/")[2] == _DASH
    except OSError:
        return False


def _is_replaced() -> bool:
    """Whether somebody put a file in the place of the link /environment."""
    return os.path.isfile(_REPLACED) and not os.path.islink(_REPLACED)


def _is_working_directory(path: bytes) -> bool:
    """Whether dash takes a PWD as it is; it would find out another one by itself."""
    try:
        return path.startswith(b"/") and os.path.samefile(path, ".")
    except OSError:
        return False
