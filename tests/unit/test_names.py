"""The grammar of names in CONTRIBUTING.md: a value is named by what it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    path
    for wing in ("singbuild", "singrun", "plugins", "tests")
    for path in ROOT.glob(f"{wing}/**/*.py")
)
PARTICIPLES = {  # they say what happened to a value, and "behind" or "over" where something is
    *("asked", "found", "given", "gone", "got", "held", "kept", "known", "laid", "lent", "made"),
    *("said", "taken", "told", "wanted", "wished", "behind", "over"),
}
# A function may be called so, as sorted() is; a value is not.
OF_FUNCTIONS = {"chosen", "left", "named", "seen", "shown", "written"}
CONTEXT_MANAGERS = ("contextmanager", "contextlib.contextmanager")


def bound_names(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Lines and names of what a module binds, and whether each is a value, not a function.

    Values are variables, attributes, parameters and classes. Left out: context managers, which
    are participles, and what is imported.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr, True
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg, True
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            decorators = {ast.unparse(each) for each in node.decorator_list}
            if decorators.isdisjoint(CONTEXT_MANAGERS):
                yield node.lineno, node.name, isinstance(node, ast.ClassDef)


def riddles(source: str) -> list[str]:
    """The names of a module that say nothing of their values, with their lines."""
    return [
        f"{line}: {name}"
        for line, name, is_value in bound_names(ast.parse(source))
        if name.strip("_").lower() in (PARTICIPLES | OF_FUNCTIONS if is_value else PARTICIPLES)
    ]


def test_no_value_is_named_by_what_happened_to_it() -> None:
    names = {str(path.relative_to(ROOT)): riddles(path.read_text()) for path in MODULES}
    assert {path: riddle for path, riddle in names.items() if riddle} == {}


def test_a_riddle_is_seen_wherever_it_is_bound() -> None:
    source = "def told(asked):\n    self._kept = [said for said in asked]\n"
    assert riddles(source) == ["1: told", "1: asked", "2: _kept", "2: said"]
    assert not riddles("@contextlib.contextmanager\ndef held(path): ...\n")
    source = "def shown(path):\n    shown = path.name\n    return shown\n"
    assert riddles(source) == ["2: shown"]
