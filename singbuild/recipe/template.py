"""Turns a template into a plain recipe: gathers what the user gives, lets ``rendering`` fill it.

The filling happens in a process of its own (see rendering.py), so that a
template can neither hang nor exhaust this one, nor reach into it.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from singbuild.errors import HostError, RecipeError, SingbuildError, UsageError
from singbuild.recipe.text import Text, read

Arguments = Mapping[str, Any]
"""Values by name, as plain data: text, whole numbers, true, false, null, lists, mappings."""

_ERRORS: dict[str, type[SingbuildError]] = {"RecipeError": RecipeError, "UsageError": UsageError}


@dataclass(frozen=True)
class Rendered:
    """A plain recipe, and the values of the names that its template declares or uses."""

    text: Text
    arguments: Arguments


def is_template(source: Text) -> bool:
    """Tell whether the recipe declares %arguments."""
    sections = (source.section(n) for n in range(1, len(source.lines) + 1))
    return any(match["name"].lower() == "arguments" for match in sections if match)


def render(
    source: Text,
    *,
    build_args: Sequence[str] = (),
    build_arg_file: Path | None = None,
    values: Path | None = None,
    on_unused: Callable[[str], None] | None = None,
) -> Rendered:
    """Fill ``source`` with, lowest first: %arguments, values, build_arg_file, build_args.

    build_args: ``NAME=VALUE`` each. build_arg_file: such lines. values: YAML. on_unused: gets the
    names of build arguments that the recipe does not use, which are errors without it.
    The %arguments section comes out blank, so that the result, built again, is
    taken literally. Raises RecipeError (in any of the files) and UsageError.
    """
    answer = _ask(
        {
            "builder": os.getpid(),
            "recipe": (source.path, source.text),
            "build_args": list(build_args),
            "build_arg_file": _named(build_arg_file),
            "values": _named(values),
            "accept_unused": on_unused is not None,
        },
        source,
    )
    if "error" in answer:
        raise _raised(answer)
    for name in answer["unused"]:
        assert on_unused
        on_unused(name)
    return Rendered(_placed(source, answer), MappingProxyType(answer["arguments"]))


def _named(path: Path | None) -> tuple[str, str] | None:
    if path is None:
        return None
    text = read(str(path))
    return text.path, text.text


def _placed(source: Text, answer: dict[str, Any]) -> Text:
    """Return the rendered text, whose errors name the template's lines where those are known."""
    if not answer["origins"]:
        return Text(f"{source.path} (rendered)", answer["text"])
    return Text(source.path, answer["text"], tuple(answer["origins"]), source.text)


def _ask(request: dict[str, Any], source: Text) -> dict[str, Any]:
    # -P: a jinja2.py in the current directory is none of ours.
    argv = [sys.executable, "-P", "-m", "singbuild.recipe.rendering"]
    try:
        done = subprocess.run(
            argv, input=json.dumps(request).encode(), capture_output=True, check=False
        )
    except OSError as error:
        raise HostError(f"{sys.executable} cannot be started", why=str(error)) from None
    if done.returncode:
        raise _died(source, done.returncode, done.stderr.decode(errors="replace"))
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _died(source: Text, status: int, stderr: str) -> SingbuildError:
    if status == -signal.SIGXCPU:
        return source.error(
            0,
            0,
            "filling the template takes more than 10 seconds of processor time",
            remedy="Look for loops inside loops and for huge numbers.",
        )
    if status < 0:
        return source.error(
            0,
            0,
            "the template cannot be filled",
            why=f"Its process was ended by {signal.Signals(-status).name}.",
            remedy="Make the template simpler: no deep nesting, no huge values.",
        )
    return HostError("the process that fills templates failed", why=stderr.strip()[-2000:])


def _raised(answer: dict[str, Any]) -> SingbuildError:
    """Make the error that the other process met, with its own fields."""
    kind = _ERRORS[answer.pop("error")]
    error = kind.__new__(kind)
    vars(error).update(answer)
    return error
