r"""The words of --bind, --mount and --home.

SRC[:DST[:ro]], commas between, "\\" to protect a colon; with image-src=DIR, SRC is an image.
"""

import os

from singrun.errors import RunError
from singrun.request import BindOption

_DIRECTORY = "image-src="
_MOUNT_KEYS = {
    "type": "type",
    "source": "source",
    "src": "source",
    "target": "target",
    "destination": "target",
    "dst": "target",
    "readonly": "read_only",
    "ro": "read_only",
    "image-src": "directory",
}


def parse(words: str) -> list[BindOption]:
    """Return a bind for each entry of a comma list; source and target absolute."""
    entries: list[str] = []
    for word in filter(None, split(words, ",")):
        # A comma divides binds, and the options of one, too: SRC:DST:ro,image-src=DIR.
        if entries and _is_option(word) and entries[-1].count(":") > 1:
            entries[-1] += f",{word}"
        else:
            entries.append(word)
    return [_bind(entry) for entry in entries]


def parse_mount(text: str) -> list[BindOption]:
    """Return a bind for each row of type=bind,source=SRC,target=DST[,readonly][,image-src=DIR]."""
    return [_mount(csv_fields(line, "--mount")) for line in text.splitlines() if line]


def parse_home(word: str) -> tuple[str, str]:
    """Return (source or "", target) of [SRC:]DST."""
    fields = split(word, ":")
    if len(fields) > 2:
        raise RunError(f"Cannot understand --home {word}", remedy="Say --home [SRC:]DST.")
    *source, place = (_plain(field) for field in fields)
    if not source:
        place = os.path.abspath(place)
    return (_source(source[0]) if source else ""), target(place)


def _bind(entry: str) -> BindOption:
    fields = [_plain(field) for field in split(entry, ":")]
    source, place, words = (*fields, "", "")[:3]
    modes = words.split(",")
    directory = next((m.partition("=")[2] or "/" for m in modes if m.startswith(_DIRECTORY)), "")
    if len(fields) > 3 or not all(mode == "" or _is_option(mode) for mode in modes):
        remedy = r"Say --bind SRC[:DST[:ro]]; a colon or comma in a name is written \: or \,."
        raise RunError(f"Cannot understand --bind {entry}", remedy=remedy)
    source = _source(source)
    return BindOption(
        source,
        target(place or source),
        read_only="ro" in modes,
        why="--bind",
        directory=directory,
    )


def _is_option(word: str) -> bool:
    return word in ("ro", "rw") or word.startswith(_DIRECTORY)


def _mount(fields: list[str]) -> BindOption:
    remedy = "Say --mount type=bind,source=SRC,target=DST[,readonly][,image-src=DIR]."
    values: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        name = _MOUNT_KEYS.get(key.strip(), "")
        if not name or (name == "read_only" and value.lower() not in ("", "true", "false")):
            raise RunError(f"Cannot understand --mount {field}", remedy=remedy)
        values[name] = value if equals else "true"
    if values.get("type", "bind") != "bind" or not values.get("source") or not values.get("target"):
        why = "It takes type=bind, a source and a target."
        raise RunError(f"Cannot obey --mount {','.join(fields)}", why=why, remedy=remedy)
    return BindOption(
        _source(values["source"]),
        target(values["target"]),
        read_only=values.get("read_only", "false").lower() != "false",
        why="--mount",
        directory=values.get("directory", ""),
    )


def _source(path: str) -> str:
    try:
        os.stat(path)
    except OSError as error:
        why, remedy = f"{error.strerror}.", "Name a file or directory of the host."
        raise RunError(f"Cannot bind {path}", why=why, remedy=remedy) from None
    return os.path.abspath(path)


def target(path: str) -> str:
    """Return an absolute path inside the image."""
    if not path.startswith("/") or os.path.normpath(path).strip("/") == "":
        remedy = "Give an absolute path other than /."
        raise RunError(f"Cannot bind on {path}", why="It is no place in the image.", remedy=remedy)
    return os.path.normpath(path)


def split(text: str, separator: str) -> list[str]:
    """Split at each ``separator`` that has no backslash before it; backslashes stay."""
    fields = [""]
    escaped = False
    for letter in text:
        if letter == separator and not escaped:
            fields.append("")
        else:
            fields[-1] += letter
        escaped = letter == "\\" and not escaped
    return fields


def csv_fields(text: str, where: str) -> list[str]:
    """Return the fields of one row of CSV, RFC 4180. where: for an error."""
    from _csv import Error, reader  # csv itself imports re, and few ask

    try:
        (fields,) = reader([text], strict=True)
    except (Error, ValueError) as error:
        what = f"Cannot understand {where} {text}"
        raise RunError(what, why=f"{error}.", remedy='Quote a field as "A=1,2".') from None
    return fields


def _plain(field: str) -> str:
    """Return the field without the backslashes that protect colons, commas and backslashes."""
    for letter in "\\:,":
        field = field.replace("\\" + letter, letter)
    return field
