"""Imports os without collections.abc, whose 25 classes take 0.8 ms, a twentieth of a launch.

os has two uses for it: os.environ is a mutable mapping, and os.PathLike asks for a method's name.
What stands in for it is there while os is imported; any other module gets the real one. Without
this module everything works as it does with it.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import ItemsView, KeysView, ValuesView
    from typing import Any

_NAME = "_collections_abc"


class MutableMapping:
    """What os.environ has of collections.abc.MutableMapping; the rest is its own."""

    def __contains__(self: "Any", key: object) -> bool:
        try:
            self[key]
        except KeyError:
            return False
        return True

    def __eq__(self: "Any", other: "Any") -> bool:
        return isinstance(other, (dict, MutableMapping)) and {**self} == {**other}  # type: ignore[dict-item]

    def get(self: "Any", key: object, default: object = None) -> "Any":
        """Return a value."""
        try:
            return self[key]
        except KeyError:
            return default

    def keys(self: "Any") -> "KeysView[Any]":
        """Return the names, of now."""
        return dict.fromkeys(self).keys()

    def values(self: "Any") -> "ValuesView[Any]":
        """Return the values, of now."""
        return {**self}.values()

    def items(self: "Any") -> "ItemsView[Any, Any]":
        """Return pairs, of now."""
        return {**self}.items()

    def pop(self: "Any", key: object, *default: object) -> "Any":
        """Delete one; return its value."""
        if default and key not in self:
            return default[0]
        value = self[key]
        del self[key]
        return value

    def update(self: "Any", other: "Any" = (), /, **more: object) -> None:
        """Set several."""
        for key, value in dict(other, **more).items():
            self[key] = value

    def clear(self: "Any") -> None:
        """Delete all."""
        for key in [*self]:
            del self[key]


def _check_methods(kind: type, *names: str) -> "Any":
    from _collections_abc import _check_methods as check  # type: ignore[attr-defined]  # os has it

    return check(kind, *names)


def import_os() -> None:
    """Import os, if neither it nor collections.abc is there yet."""
    if "os" in sys.modules or _NAME in sys.modules:
        return
    sys.modules[_NAME] = stand_in = type(sys)(_NAME)
    # Mapping: os looks whether it is asked to merge one with os.environ.
    stand_in.__dict__.update(
        MutableMapping=MutableMapping, Mapping=dict, _check_methods=_check_methods
    )
    try:
        import os  # noqa: F401  for those who come after
    except ImportError:
        sys.modules.pop("os", None)  # of a Python that wants more of it
    finally:
        del sys.modules[_NAME]


import_os()
