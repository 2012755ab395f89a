"""The command line of the builder: words in, calls of the engine, exit statuses out."""

from __future__ import annotations

import sys
import traceback
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

from singbuild import __version__, command
from singbuild.cli_cache import cache_commands
from singbuild.cli_image import COMMANDS as IMAGE_COMMANDS
from singbuild.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    HostError,
    SingbuildError,
    UsageError,
    nearest,
)
from singbuild.sizes import parse_size

STATUSES = """\b
Exit statuses:
  0    the image is built
  1    two builds differ (--check-reproducible), two images differ (diff)
  2    the command line is wrong
  3    the recipe is wrong: file, line and column are named
  4    no such backend, or a broken one
  5    this host lacks a program, a privilege, or space
  6    an input could not be had: mirror, download, checksum
  7    a command of %setup, %post or %test failed
  8    the image cannot be written, or is not a sound image
  70   a bug in singbuild
  130  Ctrl-C; 143 SIGTERM. Nothing is left behind.
"""


class Commands(click.Group):
    """``singbuild RECIPE IMAGE`` is ``singbuild build RECIPE IMAGE``."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Put the word ``build`` before anything that is neither a command nor our own option."""
        own = {name for parameter in self.get_params(context) for name in parameter.opts}
        if args and args[0] not in self.commands and args[0] not in own:
            args = ["build", *args]
        return super().parse_args(context, args)


@click.group(
    cls=Commands, epilog=STATUSES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="singbuild")
def commands() -> None:
    """Turn a recipe into one file that holds a whole Linux environment.

    \b
      singbuild RECIPE IMAGE       the main job
      ./IMAGE ARGUMENTS            runs its runscript, as you
      singrun exec IMAGE COMMAND   runs a program in it, as you
    """  # noqa: D301 - click wants the character itself


commands.add_command(cache_commands)
for image_command in IMAGE_COMMANDS:
    commands.add_command(image_command)


def recipe_options(function: Any) -> Any:
    """Add the options that every command that reads a recipe takes."""
    for option in (
        click.option(
            "--values", type=click.Path(path_type=Path), help="YAML file of template values."
        ),
        click.option(
            "--build-arg-file", type=click.Path(path_type=Path), help="File of NAME=VALUE lines."
        ),
        click.option(
            "--build-arg",
            "build_args",
            multiple=True,
            metavar="NAME=VALUE",
            help="A template value.",
        ),
        click.argument("recipe"),
    ):
        function = option(function)
    return function


@commands.command()
@recipe_options
@click.argument("image", type=click.Path(path_type=Path))
@click.option("-F", "--force", is_flag=True, help="Replace an existing image.")
@click.option(
    "--free", default="0", metavar="SIZE", help="Leave this much room, such as 64M or 2G."
)
@click.option("--notest", is_flag=True, help="Leave out %test.")
@click.option("--locked", is_flag=True, help="Refuse inputs that differ from RECIPE's lock file.")
@click.option("--check-reproducible", is_flag=True, help="Build twice; refuse what differs.")
@click.option("--no-cache", is_flag=True, help="Neither use nor keep earlier stages.")
@click.option("--json", "as_json", is_flag=True, help="One JSON event a line on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
def build(
    recipe: str,
    image: Path,
    build_args: tuple[str, ...],
    build_arg_file: Path | None,
    values: Path | None,
    force: bool,
    free: str,
    notest: bool,
    locked: bool,
    check_reproducible: bool,
    no_cache: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Build IMAGE from RECIPE ("-" reads standard input)."""
    # Imported here: --help and a typing error cost no more than they must.
    from singbuild import build as engine
    from singbuild import console, lock, plan, reproducible
    from singbuild import recipe as recipes

    _check_recipe_word(recipe)
    options = engine.Options(
        force=force,
        test=not notest,
        free=parse_size(free),
        use_cache=not no_cache,
        locked=lock.read(lock.beside(recipe)) if locked else None,
    )
    shown = console.choose(sys.stdout, as_json=as_json, quiet=quiet)
    try:
        loaded = recipes.load(
            recipe, build_args=build_args, build_arg_file=build_arg_file, values=values
        )
        planned = plan.make(loaded, shown)
        if check_reproducible:
            return reproducible.check(planned, image, options, shown)
        return engine.build(planned, image, options, shown)
    except SingbuildError as error:
        shown.error(error, None)
        return error.status


@commands.command("plan")
@recipe_options
@click.option("--rendered", is_flag=True, help="Print the recipe as templates made it, no plan.")
def show_plan(
    recipe: str,
    build_args: tuple[str, ...],
    build_arg_file: Path | None,
    values: Path | None,
    rendered: bool,
) -> int:
    """Print what a build would do, and why. Needs no privilege, writes nothing."""
    from singbuild import console, plan
    from singbuild import recipe as recipes

    loaded = recipes.load(
        recipe, build_args=build_args, build_arg_file=build_arg_file, values=values
    )
    if rendered:
        print(loaded.text, end="")
    else:
        print(plan.described(plan.make(loaded, console.Console(sys.stdout))))
    return 0


@commands.command("lock")
@recipe_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: beside RECIPE.")
def write_lock(
    recipe: str,
    build_args: tuple[str, ...],
    build_arg_file: Path | None,
    values: Path | None,
    output: Path | None,
) -> int:
    """Write down what a build of RECIPE would take now, for ``build --locked``."""
    from singbuild import console, lock, plan
    from singbuild import recipe as recipes

    loaded = recipes.load(
        recipe, build_args=build_args, build_arg_file=build_arg_file, values=values
    )
    planned = plan.make(loaded, console.choose(sys.stderr, as_json=False, quiet=False))
    target = output or lock.beside(recipe)
    target.write_text(lock.dumped(lock.resolved(planned), Path(recipe).name))
    print(target)
    return 0


@commands.command("backends")
@click.argument("name", required=False)
def show_backends(name: str | None) -> int:
    """List the backends that are installed, or print one's keywords and host programs."""
    from singbuild import backends

    if name is None:
        for each in backends.installed():
            print(f"{each.name:20} {each.distribution} {each.version}")
        return 0
    backend = backends.load(name)
    print(f"{name}, from {backend.installed.distribution} {backend.installed.version}\n\nKeywords:")
    for keyword in backend.needs.keywords:
        must = " (required)" if keyword.required else ""
        default = f" Default: {keyword.default}." if keyword.default else ""
        print(f"  {keyword.name:14} {keyword.help}{must}{default}")
    print("\nHost programs:")
    for program in backend.needs.programs:
        there = command.which(program.name) or f"missing: apt-get install {program.package}"
        print(f"  {program.name:14} {there}")
    return 0


@commands.command("new-backend")
@click.argument("name")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
def new_backend(name: str, directory: Path | None) -> int:
    """Write the distribution of a backend NAME: it installs, works, and passes its tests."""
    from singbuild import scaffold

    where = scaffold.new_backend(name, directory)
    print(f"{where}\nNext: pip install -e '{where}[test]' && pytest {where}")
    return 0


def _check_recipe_word(recipe: str) -> None:
    """A word that is no file but nearly a command was meant as the command."""
    near = nearest(recipe, list(commands.commands))
    if recipe != "-" and not Path(recipe).exists() and near:
        raise UsageError(
            f"there is no recipe {recipe!r}", remedy=f"Did you mean the command: singbuild {near}?"
        )


def main() -> None:
    """Execute the command line; the only place that ends the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names need not be text
    try:
        status = commands.main(prog_name="singbuild", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except SingbuildError as error:
        print(f"singbuild: error: {error}", file=sys.stderr)
        sys.exit(error.status)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"singbuild: error: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(HostError.status)
    except Exception:
        traceback.print_exc()
        print("singbuild: this is a bug; please report it with the lines above", file=sys.stderr)
        sys.exit(EXIT_BUG)
    sys.exit(status)
