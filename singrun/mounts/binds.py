r"""The words of --bind and --home: SRC[:DST[:ro]], commas between, "\\" to protect a colon."""

import os

from singrun.errors import RunError
from singrun.request import BindOption


def parse(words: str) -> list[BindOption]:
    """Return a bind for each entry of a comma list; source and target absolute."""
    return [_bind(entry) for entry in split(words, ",") if entry]


def parse_home(word: str) -> tuple[str, str]:
    """(source or "", target) of [SRC:]DST."""
    fields = split(word, ":")
    if len(fields) > 2:
        raise RunError(f"Cannot understand --home {word}", remedy="Say --home [SRC:]DST.")
    *source, place = (_plain(field) for field in fields)
    if not source:
        place = os.path.abspath(place)
    return (_source(source[0]) if source else ""), target(place)


def _bind(entry: str) -> BindOption:
    fields = [_plain(field) for field in split(entry, ":")]
    source, place, mode = (*fields, "", "")[:3]
    if len(fields) > 3 or mode not in ("", "ro", "rw"):
        remedy = r"Say --bind SRC[:DST[:ro]]; a colon or comma in a name is written \: or \,."
        raise RunError(f"Cannot understand --bind {entry}", remedy=remedy)
    source = _source(source)
    return BindOption(source, target(place or source), read_only=mode == "ro", why="--bind")


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
