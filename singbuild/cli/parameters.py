"""Options that several commands have: one spelling, one letter, one meaning each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from singbuild.console.sizes import parse_size

if TYPE_CHECKING:
    from singbuild.console.display import Console
    from singbuild.tree.binds import HostParts

FILE = click.Path(path_type=Path)
MEBIBYTE = 1 << 20


class Size(click.ParamType):  # type: ignore[type-arg]  # generic as of click 8.4
    """A size in bytes, as people write it; a number without a unit is MiB, as in Singularity."""

    name = "size"

    def convert(
        self, value: Any, _parameter: click.Parameter | None, _context: click.Context | None
    ) -> int:
        """Return the number of bytes. Raises UsageError for what is not a size."""
        return value if isinstance(value, int) else parse_size(value, unit=MEBIBYTE)


def document(command: str, **fields: Any) -> None:
    """Print what a command answers with --json: one object, the same envelope for all commands.

    version: of the envelope; fields and values are added within a version, never changed.
    """
    print(json.dumps({"version": 1, "command": command} | fields, indent=2))


SIZE = Size()
force_option = click.option("-F", "--force", is_flag=True, help="Replace an existing file.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on standard output."
)
events_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON event a line on standard output."
)
arch_option = click.option(
    "--arch",
    default="",
    metavar="MACHINE",
    help="Build for this machine type, such as aarch64, if the source has it.",
)


def offline_option(function: Any) -> Any:
    """Add --offline. Downloads, those of plugins too, read it from SINGBUILD_OFFLINE."""

    def set_variable(context: click.Context, option: click.Parameter, value: bool) -> None:
        # --offline=no is a default of this command line: grammar.Command
        is_said = (context.default_map or {}).get(option.name) is False
        if value or is_said:
            os.environ["SINGBUILD_OFFLINE"] = "1" if value else "0"

    words = (
        "Let the backend fetch nothing: it takes what earlier builds left in the cache. "
        "What %post fetches is its own."
    )
    option = click.option(
        "--offline", is_flag=True, expose_value=False, callback=set_variable, help=words
    )
    return option(function)


def value_options(function: Any) -> Any:
    """Add the options that fill a recipe's template."""
    for option in (
        click.option("--values", type=FILE, metavar="FILE", help="YAML file of template values."),
        click.option(
            "--build-arg-file", type=FILE, metavar="FILE", help="File of NAME=VALUE lines."
        ),
        click.option(
            "--build-arg",
            "build_args",
            multiple=True,
            metavar="NAME=VALUE",
            help="A template value; repeatable.",
        ),
    ):
        function = option(function)
    return function


unused_option = click.option(
    "--warn-unused-build-args",
    "warn_unused",
    is_flag=True,
    help="Warn of a --build-arg that the recipe does not use, which is an error otherwise.",
)


def recipe_options(function: Any) -> Any:
    """Add the argument and the options of every command that reads a recipe."""
    return value_options(arch_option(click.argument("recipe")(function)))


def host_options(function: Any) -> Any:
    """Add the options for what sections see of the host."""
    for option in (
        click.option("--rocm", is_flag=True, help="Likewise for AMD GPUs."),
        click.option(
            "--nv",
            is_flag=True,
            help="Let %post and %test have the host's NVIDIA devices and libraries.",
        ),
        click.option(
            "--mount",
            "mount_words",
            multiple=True,
            metavar="type=bind,…",
            help="The same as --bind: type=bind,source=SRC,target=DST[,readonly].",
        ),
        click.option(
            "-B",
            "--bind",
            "bind_words",
            multiple=True,
            metavar="SRC[:DST[:ro]]",
            help="Let %post and %test see a path of the host; repeatable.",
        ),
    ):
        function = option(function)
    return function


def host_parts(
    bind_words: tuple[str, ...], mount_words: tuple[str, ...], *, nv: bool, rocm: bool
) -> HostParts:
    """Return the values of ``host_options``. Raises UsageError."""
    from singbuild.tree import binds

    drivers = tuple(name for name, is_set in (("nv", nv), ("rocm", rocm)) if is_set)
    return binds.HostParts(binds.parsed(bind_words, mount_words), drivers)


def warn_of_ending(target: Path, console: Console) -> None:
    """Warn of a target that becomes an ext3, though its ending is nearly that of another kind."""
    from singbuild.formats import loading

    if meant := loading.meant_ending(target):
        console.warn(f"{target} becomes an ext3, by its ending; did you mean {meant}?")


def unused_warning(console: Console) -> Callable[[str], None]:
    """Return a function that warns of a build argument that the recipe does not use."""
    return lambda name: console.warn(f"--build-arg {name}: the recipe has no such argument")


SHELLS = {"bash": "completion.bash", "zsh": "_singbuild", "fish": "singbuild.fish"}
"""The shells that words are completed in, and the names of their files."""

shell_argument = click.argument("shell", type=click.Choice([*SHELLS]))
