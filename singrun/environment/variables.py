"""Variables that override the image's own, and how they get past its scripts.

The image's env/*.sh run after us, in the image's shell. So what must override them is
written as one more such script, which runs last; values are quoted, so they
are data to that shell as well.
"""

from singrun.environment.inherited import PREFIXES, Environment
from singrun.errors import RunError
from singrun.mounts.binds import csv_fields
from singrun.mounts.root import Root
from singrun.mounts.rows import Bind
from singrun.request import VariableOptions

_DIRECTORY = "/.singularity.d/env"
_SCRIPT = f"{_DIRECTORY}/zzz-singrun.sh"  # the last in every locale's order
_OLDER = "/environment"  # Singularity 2.x: read by /.exec and its like


# SINGULARITYENV_PREPEND_PATH=/my/bin puts a directory before the image's PATH. Singularity 2.5.
_JOINING = {b"PREPEND_PATH": "before", b"APPEND_PATH": "behind"}


class Override:
    """A variable that overrides the image's; ``layer`` says who set it.

    how: "set", or where the value goes in a path: "before" the image's own or "behind" it.
    evaluate: the image's shell replaces $ and ` in the value.
    """

    evaluate = False

    def __init__(self, name: bytes, value: bytes, layer: str, how: str = "set") -> None:
        self.name, self.value, self.layer, self.how = name, value, layer, how

    def apply_to(self, value: bytes) -> bytes:
        """Return the value of the variable, which was ``value`` before."""
        if self.how == "set" or not value:
            return self.value
        both = (self.value, value) if self.how == "before" else (value, self.value)
        return b":".join(both)

    def line(self) -> bytes:
        """Return the line of a script that sets it."""
        quoted = b"'" + self.value.replace(b"'", b"'\\''") + b"'"
        if self.evaluate:
            quoted = _double_quoted(self.value)
        # Where the image's scripts leave the path alone, it holds the value already.
        there = b'case "$%b" in %b) ;; *) %b ;; esac\n'
        if self.how == "before":
            joined = b'export %b=%b"${%b:+:$%b}"' % (self.name, quoted, self.name, self.name)
            return there % (self.name, quoted + b"|" + quoted + b":*", joined)
        if self.how == "behind":
            joined = b'export %b="${%b:+$%b:}"%b' % (self.name, self.name, self.name, quoted)
            return there % (self.name, quoted + b"|*:" + quoted, joined)
        return b"export " + self.name + b"=" + quoted + b"\n"


def _double_quoted(value: bytes) -> bytes:
    r"""Return a value as a word of a shell, which evaluates its $ and `, but for \$ and \`."""
    # Of a pair of backslashes the second is data; another one before a quote or the end is, too.
    parts = [part.replace(b'\\"', b'\\\\"').replace(b'"', b'\\"') for part in value.split(b"\\\\")]
    end = b"\\" if parts[-1].endswith(b"\\") else b""
    return b'"' + b"\\\\".join(parts) + end + b'"'


def overrides(
    environment: Environment, options: VariableOptions, *, has_home: bool
) -> list[Override]:
    """Return the overrides, lowest first. environment: the caller's; has_home: --home sets HOME."""
    rows = [
        _override(name.removeprefix(prefix), value, name.decode(errors="surrogateescape"))
        for prefix in PREFIXES
        for name, value in environment.items()
        if name.startswith(prefix) and name != prefix
    ]
    for name, value, layer in options.assignments:
        rows.append(_override(_bytes(name), _bytes(value), layer))
    for each in rows:
        each.evaluate = options.evaluate
    return [each for each in rows if not (has_home and each.name == b"HOME")]


def _override(name: bytes, value: bytes, layer: str) -> Override:
    if how := _JOINING.get(name, ""):
        return Override(b"PATH", value, layer, how)
    return Override(name, value, layer)


def read_file(path: str) -> list[tuple[str, str, str]]:
    """Return (name, value, layer) for each line NAME=VALUE of an --env-file.

    Blank lines and lines with # first are left out, so is the word export; one
    pair of quotes around the value is taken off, and nothing else is evaluated.
    """
    try:
        with open(path, errors="surrogateescape") as file:
            lines = file.read().split("\n")
    except OSError as error:
        raise RunError(f"Cannot read --env-file {path}", why=f"{error.strerror}.") from None
    rows = []
    for number, line in enumerate(lines, 1):
        words = line.strip().removeprefix("export ").lstrip()
        if words and not words.startswith("#"):
            name, value = split(words, f"{path}, line {number}")
            rows.append((name, _unquote(value), f"--env-file {path}, line {number}"))
    return rows


def pairs(words: str, where: str) -> list[tuple[str, str]]:
    """Return the pairs of NAME=VALUE,NAME=VALUE; a comma counts where NAME= comes behind it.

    A value that holds such a comma is quoted as in CSV: "A=1,B=2",C=3 are two pairs.
    """
    fields = list[str]()
    for field in csv_fields(words, where) if words.startswith('"') else words.split(","):
        name, equals, _ = field.partition("=")
        if fields and not (equals and is_identifier(_bytes(name))):
            fields[-1] += f",{field}"
        else:
            fields.append(field)
    return [split(each, where) for each in fields]


def split(word: str, where: str) -> tuple[str, str]:
    """Return the name and the value of NAME=VALUE."""
    name, equals, value = word.partition("=")
    if not equals or not name.strip() or name != name.strip():
        raise RunError(f"{where}: cannot understand {word!r}", remedy="Say NAME=VALUE.")
    return name, value


def is_identifier(name: bytes) -> bool:
    """Whether a shell can set it: POSIX, 3.216 Name. Others reach the program by themselves."""
    text = name.decode("latin-1")
    return text.isascii() and text.isidentifier()


def literal_assignments() -> Environment:
    """Return the literal assignments of the image's scripts, for an image without a shell.

    Called inside.
    """
    root = Root("/")
    names = sorted(name for name in root.names(_DIRECTORY) if name.endswith(".sh"))
    literals: Environment = {}
    for line in b"\n".join(root.read(f"{_DIRECTORY}/{name}") for name in names).split(b"\n"):
        word, equals, value = line.strip().removeprefix(b"export ").partition(b"=")
        plain = _plain(value)
        if equals and is_identifier(word) and plain is not None:
            literals[word] = plain
    return literals


def _plain(word: bytes) -> "bytes | None":
    """Return the value of a shell word without expansions, None for one with any."""
    if len(word) > 1 and word[:1] == word[-1:] == b"'":
        text = word[1:-1].replace(b"'\"'\"'", b"\0").replace(b"'\\''", b"\0")
        return None if b"'" in text else text.replace(b"\0", b"'")
    if len(word) > 1 and word[:1] == word[-1:] == b'"':
        return None if any(byte in word[1:-1] for byte in b'$`\\"') else word[1:-1]
    return None if any(byte in word for byte in b"$`\\\"'; \t&|<>()*?[~#") else word


def mounts(
    overrides: list[Override],
    caller_variables: Environment,
    root: Root,
    tmpfs: str,
    appended: Environment,
) -> list[Bind]:
    """Return the bind that puts the script into the image, or over its own /environment.

    caller_variables: those that the image shall not set. appended: variable to the directory that
    is appended to the path in it.
    """
    script = _caller_lines(caller_variables, root)
    script += b"".join(each.line() for each in overrides if is_identifier(each.name))
    script += b"".join(_append(*each) for each in appended.items())
    if not script:
        return []
    target = _SCRIPT
    if not root.has(_DIRECTORY):
        if not root.has(_OLDER):
            return []  # nothing in the image sets variables
        target, script = _OLDER, root.read(_OLDER) + b"\n" + script
    with open(f"{tmpfs}/environment", "wb") as file:
        file.write(script)
    bind = Bind(file.name, target, why="variables that win over the image's")
    bind.trace = False
    return [bind]


def _caller_lines(caller_variables: Environment, root: Root) -> bytes:
    """Return lines that set again those caller_variables, and PWD, that the image's scripts set.

    To read the scripts is cheaper than a bind mount that most images do not need.
    """
    scripts = [f"{_DIRECTORY}/{name}" for name in root.names(_DIRECTORY) if name.endswith(".sh")]
    text = b"\n".join(map(root.read, scripts or [_OLDER]))
    lines = [
        Override(name, value, "").line()
        for name, value in caller_variables.items()
        if _assigns(text, name)
    ]
    if _assigns(text, b"PWD"):
        lines.append(b'export PWD="$(pwd -P)"\n')
    return b"".join(lines)


def _assigns(text: bytes, name: bytes) -> bool:
    """Whether a script seems to set ``name``: JAVA_HOME= sets no HOME."""
    parts = text.split(name + b"=")
    return any(not part or part[-1:] in b" \t\n;" for part in parts[:-1])


def _append(name: bytes, directory: bytes) -> bytes:
    """Return a line that appends ``directory`` to the path in ``name``, if it is not there."""
    return b'case ":$%b:" in *:%b:*) ;; *) export %b="${%b:+$%b:}%b" ;; esac\n' % (
        name,
        directory,
        name,
        name,
        name,
        directory,
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _unquote(value: str) -> str:
    value = value.strip()
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value
