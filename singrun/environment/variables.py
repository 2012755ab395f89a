"""Variables that win over the image's own, and how they get past its scripts.

The image's env/*.sh run after us, in the image's shell. So what must win is
written as one more such script, which runs last; values are quoted, so they
are data to that shell as well.
"""

from singrun.environment.inherited import PREFIXES, Environment
from singrun.errors import RunError
from singrun.mounts.binds import csv_fields
from singrun.mounts.root import Root
from singrun.mounts.table import Bind
from singrun.request import VariableOptions

_DIRECTORY = "/.singularity.d/env"
_SCRIPT = f"{_DIRECTORY}/zzz-singrun.sh"  # the last in every locale's order
_OLDER = "/environment"  # Singularity 2.x: read by /.exec and its like


# SINGULARITYENV_PREPEND_PATH=/my/bin puts a directory before the image's PATH. Singularity 2.5.
_JOINED = {b"PREPEND_PATH": "before", b"APPEND_PATH": "behind"}


class Winner:
    """A variable that wins over the image's; ``layer`` says who set it.

    how: "set", or where the value goes in a path: "before" the image's own or "behind" it.
    evaluate: $ and ` in the value are the image's shell's to replace.
    """

    evaluate = False

    def __init__(self, name: bytes, value: bytes, layer: str, how: str = "set") -> None:
        self.name, self.value, self.layer, self.how = name, value, layer, how

    def over(self, value: bytes) -> bytes:
        """Return what the variable is when it was ``value``."""
        if self.how == "set" or not value:
            return self.value
        both = (self.value, value) if self.how == "before" else (value, self.value)
        return b":".join(both)

    def line(self) -> bytes:
        """Return the line of a script that sets it."""
        quoted = b"'" + self.value.replace(b"'", b"'\\''") + b"'"
        if self.evaluate:
            quoted = b'"' + self.value.replace(b'"', b'\\"') + b'"'
        if self.how == "before":
            quoted += b'"${%b:+:$%b}"' % (self.name, self.name)
        elif self.how == "behind":
            quoted = b'"${%b:+$%b:}"' % (self.name, self.name) + quoted
        return b"export " + self.name + b"=" + quoted + b"\n"


def winners(given: Environment, options: VariableOptions, *, has_home: bool) -> list[Winner]:
    """Return them, lowest first. given: the caller's environment. has_home: --home sets HOME."""
    found = [
        _of_prefix(name.removeprefix(prefix), value, name.decode(errors="surrogateescape"))
        for prefix in PREFIXES
        for name, value in given.items()
        if name.startswith(prefix) and name != prefix
    ]
    for name, value, layer in options.given:
        found.append(Winner(_bytes(name), _bytes(value), layer))
    for each in found:
        each.evaluate = options.evaluate
    return [each for each in found if not (has_home and each.name == b"HOME")]


def _of_prefix(name: bytes, value: bytes, layer: str) -> Winner:
    if how := _JOINED.get(name, ""):
        return Winner(b"PATH", value, layer, how)
    return Winner(name, value, layer)


def read_file(path: str) -> list[tuple[str, str, str]]:
    """(name, value, layer) for each line NAME=VALUE of an --env-file.

    Blank lines and lines with # first are left out, so is the word export; one
    pair of quotes around the value is taken off, and nothing else is evaluated.
    """
    try:
        with open(path, errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise RunError(f"Cannot read --env-file {path}", why=f"{error.strerror}.") from None
    found = []
    for number, line in enumerate(lines, 1):
        words = line.strip().removeprefix("export ").lstrip()
        if words and not words.startswith("#"):
            name, value = split(words, f"{path}, line {number}")
            found.append((name, _unquoted(value), f"--env-file {path}, line {number}"))
    return found


def pairs(words: str, where: str) -> list[tuple[str, str]]:
    """Return the pairs of NAME=VALUE,NAME=VALUE; a comma counts where NAME= comes behind it.

    A value that holds such a comma is quoted as in CSV: "A=1,B=2",C=3 are two pairs.
    """
    found = list[str]()
    for field in csv_fields(words, where) if words.startswith('"') else words.split(","):
        name, equals, _ = field.partition("=")
        if found and not (equals and is_identifier(_bytes(name))):
            found[-1] += f",{field}"
        else:
            found.append(field)
    return [split(each, where) for each in found]


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


def assigned() -> Environment:
    """Return what an image's scripts assign in so many words, where it has no shell to run them.

    Called inside.
    """
    root = Root("/")
    names = sorted(name for name in root.names(_DIRECTORY) if name.endswith(".sh"))
    found: Environment = {}
    for line in b"\n".join(root.read(f"{_DIRECTORY}/{name}") for name in names).split(b"\n"):
        word, equals, value = line.strip().removeprefix(b"export ").partition(b"=")
        plain = _plain(value)
        if equals and is_identifier(word) and plain is not None:
            found[word] = plain
    return found


def _plain(word: bytes) -> "bytes | None":
    """Return the value of a shell's word that says it itself, else None."""
    if len(word) > 1 and word[:1] == word[-1:] == b"'":
        text = word[1:-1].replace(b"'\"'\"'", b"\0").replace(b"'\\''", b"\0")
        return None if b"'" in text else text.replace(b"\0", b"'")
    if len(word) > 1 and word[:1] == word[-1:] == b'"':
        return None if any(byte in word[1:-1] for byte in b'$`\\"') else word[1:-1]
    return None if any(byte in word for byte in b"$`\\\"'; \t&|<>()*?[~#") else word


def mounts(
    winning: list[Winner], own: Environment, root: Root, stage: str, behind: Environment
) -> list[Bind]:
    """Return the bind that puts the script into the image, or over its own /environment.

    own: the caller's variables, which the image shall not set. behind: by variable a
    directory that comes behind all others in it.
    """
    script = _restored(own, root)
    script += b"".join(each.line() for each in winning if is_identifier(each.name))
    script += b"".join(_append(*each) for each in behind.items())
    if not script:
        return []
    target = _SCRIPT
    if not root.has(_DIRECTORY):
        if not root.has(_OLDER):
            return []  # nothing in the image sets variables
        target, script = _OLDER, root.read(_OLDER) + b"\n" + script
    with open(f"{stage}/environment", "wb") as file:
        file.write(script)
    bind = Bind(file.name, target, why="variables that win over the image's")
    bind.trace = False
    return [bind]


def _restored(own: Environment, root: Root) -> bytes:
    """Return lines that set those of ``own``, and PWD, which the image's scripts set.

    To read them is cheaper than a mount that most images do not need.
    """
    scripts = [f"{_DIRECTORY}/{name}" for name in root.names(_DIRECTORY) if name.endswith(".sh")]
    text = b"\n".join(map(root.read, scripts or [_OLDER]))
    lines = [Winner(name, value, "").line() for name, value in own.items() if _assigns(text, name)]
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


def _unquoted(value: str) -> str:
    value = value.strip()
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value
