"""A template's values from a YAML file, as plain data: apart from values.py, as few need PyYAML."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from singbuild.errors import RecipeError
from singbuild.recipe.text import Text, sentence
from singbuild.recipe.values import Fail, check_name, check_text, failing_at

MOST_VALUES = 10_000
"""How many values one --values file may hold once its aliases are written out."""


class _ValuesLoader(yaml.SafeLoader):
    """YAML where only true, false, null and whole numbers are more than text.

    YAML 1.1 reads ``3.10`` as 3.1, ``12:30`` as 750 and ``no`` as false; versions,
    times and country codes are what recipes are about.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} is given twice", key.start_mark
                )
            keys.add(str(key.value))
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"0|-?[1-9][0-9]{0,17}", "-0123456789"),
):
    _ValuesLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first)
    )


def from_yaml(file: Text) -> dict[str, Any]:
    """Read a --values file: a mapping; nested ones are reached as ``{{ a.b }}``."""
    try:
        document = yaml.load(file.text, Loader=_ValuesLoader)  # noqa: S506  a SafeLoader
    except Exception as error:  # PyYAML lets ValueError, RecursionError and others through
        raise _bad_yaml(file, error) from None
    if not isinstance(document or {}, dict):
        raise failing_at(file, 1)(
            "the values have no names", remedy="Write a mapping: one NAME: VALUE a line."
        )
    return {str(name): _value(file, name, value) for name, value in (document or {}).items()}


def _bad_yaml(file: Text, error: Exception) -> RecipeError:
    what, why = "this is not the YAML of a values file", getattr(error, "problem", str(error))
    for mark in (getattr(error, "problem_mark", None), getattr(error, "context_mark", None)):
        if mark and mark.line < len(file.lines):
            return file.error(mark.line + 1, mark.column + 1, what, why=sentence(why))
    return file.error(0, 0, what, why=sentence(why or type(error).__name__))


def _value(file: Text, name: object, value: object) -> Any:
    lines = (n for n, line in enumerate(file.lines, 1) if line.startswith(str(name)))
    fail = failing_at(file, next(lines, 0))
    check_name(str(name), fail)
    return _plain(value, fail, iter(range(MOST_VALUES)), depth=0)


def _plain(value: object, fail: Fail, budget: Iterator[int], depth: int) -> Any:
    if depth > 50 or next(budget, None) is None:
        raise fail(
            f"the value is deeper than 50 or holds more than {MOST_VALUES:,} values",
            why="Aliases (*name) count as often as they are used.",
            remedy="Make the values file smaller.",
        )
    match value:
        case str():
            check_text(value, fail)
            return value
        case None | bool() | int():
            return value
        case list():
            return [_plain(item, fail, budget, depth + 1) for item in value]
        case dict():
            return {
                _plain_key(key, fail): _plain(item, fail, budget, depth + 1)
                for key, item in value.items()
            }
    raise fail(
        f"a value is of the kind {type(value).__name__}",
        remedy="Use text, whole numbers, true, false, null, lists and mappings.",
    )


def _plain_key(key: object, fail: Fail) -> str:
    check_text(str(key), fail)
    return str(key)
