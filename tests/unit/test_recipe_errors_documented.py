"""The pages on recipes are true, letter by letter, and no error is missing from them."""

import ast
import contextlib
import os
import re
import resource
import shlex
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from singbuild.errors import RecipeError, SingbuildError, UsageError
from singbuild.recipe import rendering
from singbuild.recipe.grammar import Recipe, load

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs/recipe-format.md", ROOT / "docs/recipe-errors.md"]
BLOCK = re.compile(r"^```(?P<kind>[a-z-]+)(?P<options>.*)\n(?P<text>(?:.*\n)*?)```$", re.MULTILINE)
FILES = {"recipe": "recipe.def", "values": "values.yaml", "build-arg-file": "build.args"}
KNOWN_KEYS = ["MirrorURL", "SHA256"]
# files.py asks the host, which is after the recipe is read.
MODULES = sorted({*ROOT.glob("singbuild/recipe/*.py")} - {ROOT / "singbuild/recipe/files.py"})


@dataclass(frozen=True)
class Example:
    """Blocks up to and including the one with the expected error ("" when there is none)."""

    blocks: tuple[tuple[str, str, str], ...]
    error: str

    def __str__(self) -> str:
        return self.error.partition("\n")[0]


def examples() -> list[Example]:
    rows: list[Example] = []
    blocks: list[tuple[str, str, str]] = []
    for block in BLOCK.finditer("\n".join(page.read_text() for page in PAGES)):
        if blocks and blocks[-1][0] == "recipe" and block["kind"] != "error":
            rows.append(Example(tuple(blocks), ""))
            blocks = []
        if block["kind"] == "error":
            rows.append(Example(tuple(blocks), block["text"].rstrip("\n")))
            blocks = []
        else:
            blocks.append((block["kind"], block["options"], block["text"]))
    return rows


def loaded(example: Example) -> Recipe:
    path, build_args = "recipe.def", []
    for kind, options, text in example.blocks:
        if kind == "sh":
            subprocess.run(["sh", "-c", text], check=False)
        elif kind == "recipe-path":
            path = text.strip()
        else:
            Path(FILES[kind]).write_text(text)
            build_args += [word for word in shlex.split(options) if word != "--build-arg"]
    kinds = {kind for kind, _, _ in example.blocks}
    recipe = load(
        path,
        build_args=build_args,
        build_arg_file=Path("build.args") if "build-arg-file" in kinds else None,
        values=Path("values.yaml") if "values" in kinds else None,
    )
    if recipe.bootstrap == "busybox":
        for header in recipe.headers[1:]:
            if header.name not in (*KNOWN_KEYS, "Stage"):
                raise recipe.unknown(header, KNOWN_KEYS)
    return recipe


@pytest.mark.parametrize("example", examples(), ids=str)
def test_the_documented_error_is_what_comes_out(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if not example.error:
        assert loaded(example).bootstrap
        return
    shortened = "processor time" in example.error
    limit = limit_shortened() if shortened else contextlib.nullcontext()
    with limit, pytest.raises(SingbuildError) as caught:
        loaded(example)
    assert type(caught.value) in (RecipeError, UsageError)
    assert str(caught.value) == example.error


@contextlib.contextmanager
def limit_shortened() -> Iterator[None]:
    """Check the limit that the process of a template sets itself, and reach it after a second."""
    ended, limits = threading.Event(), list[int]()

    def shorten() -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        while not (ended.wait(0.02) or rendering.SECONDS in limits):
            for pid in map(int, children.read_text().split()):
                with contextlib.suppress(ProcessLookupError):
                    limits.append(resource.prlimit(pid, resource.RLIMIT_CPU)[0])
                    if limits[-1] == rendering.SECONDS:
                        resource.prlimit(pid, resource.RLIMIT_CPU, (1, rendering.SECONDS))

    thread = threading.Thread(target=shorten)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert limits[-1] == 10


def sentences(path: Path) -> set[str]:
    """The ``what`` of every error a module makes, as a regular expression."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    makers = {"error", "fail", "_whole", "_bad_byte", "RecipeError", "UsageError"}
    return {
        pattern(argument)
        for call in calls
        if getattr(call.func, "attr", getattr(call.func, "id", "")) in makers
        for argument in call.args
        if len(pattern(argument).replace(".*", "")) > 6
    }


def pattern(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return re.escape(text)
        case ast.JoinedStr(values=values):
            return "".join(pattern(value) for value in values)
    return ".*"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_every_error_has_an_example(module: Path) -> None:
    errors = "\n".join(example.error for example in examples())
    assert [text for text in sorted(sentences(module)) if not re.search(text, errors)] == []
