"""The commands that read a recipe: build it, plan it, lock it. Words in, calls out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from singbuild.console.sizes import parse_size
from singbuild.errors import SingbuildError, UsageError
from singrun.errors import nearest


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
        arch_option,
        click.argument("recipe"),
    ):
        function = option(function)
    return function


arch_option = click.option(
    "--arch",
    default="",
    metavar="MACHINE",
    help="Build for this machine type, such as aarch64, if the source has it.",
)


def offline_option(function: Any) -> Any:
    """Add --offline. Downloads, those of plugins too, read it from SINGBUILD_OFFLINE."""

    def set_variable(_context: click.Context, _option: click.Parameter, value: bool) -> None:
        if value:
            os.environ["SINGBUILD_OFFLINE"] = "1"

    words = "Fetch nothing: take what earlier builds left in the cache."
    option = click.option(
        "--offline", is_flag=True, expose_value=False, callback=set_variable, help=words
    )
    return option(function)


@click.command()
@recipe_options
@offline_option
@click.argument("image", type=click.Path(path_type=Path))
@click.option("-F", "--force", is_flag=True, help="Replace an existing image.")
@click.option(
    "--free",
    default="0",
    metavar="SIZE",
    help="Leave this much free space in the image, such as 64M or 2G.",
)
@click.option("--notest", is_flag=True, help="Leave out %test.")
@click.option("--locked", is_flag=True, help="Refuse inputs that differ from RECIPE's lock file.")
@click.option(
    "--check-reproducible", is_flag=True, help="Build twice, compare, and name what differs."
)
@click.option("--no-cache", is_flag=True, help="Take no stage from the cache, and add none.")
@click.option(
    "--secret",
    "secret_words",
    multiple=True,
    metavar="id=NAME,src=FILE|env=VAR",
    help="Let %post read /run/secrets/NAME, and nobody else.",
)
@click.option("--junit", type=click.Path(path_type=Path), help="Write a JUnit report there.")
@click.option(
    "--on-error",
    type=click.Choice(["shell", "keep"]),
    help="When a section fails, open a shell in the tree, or keep it for --resume.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue at the section that failed, after a build with --on-error=keep.",
)
@click.option(
    "--privilege",
    type=click.Choice(["root", "subuid", "one-id", "chroot"]),
    help="How to be root in the image; by default the first of these that works here.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON event a line on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
def build(
    recipe: str,
    image: Path,
    build_args: tuple[str, ...],
    build_arg_file: Path | None,
    values: Path | None,
    arch: str,
    force: bool,
    free: str,
    notest: bool,
    locked: bool,
    check_reproducible: bool,
    no_cache: bool,
    secret_words: tuple[str, ...],
    junit: Path | None,
    on_error: str | None,
    resume: bool,
    privilege: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Build IMAGE from RECIPE ("-" reads standard input)."""
    # Imported here: --help and a typing error cost no more than they must.
    from singbuild import build as engine
    from singbuild.cache.resume import Shell
    from singbuild.console import display
    from singbuild.console.junit import Report
    from singbuild.images import reproducible
    from singbuild.plan import lock, options, plan
    from singbuild.privilege.modes import Mode
    from singbuild.recipe import grammar
    from singbuild.tree import secrets, sections

    _check_recipe_word(recipe)
    shown = display.choose(sys.stdout, as_json=as_json, quiet=quiet)
    try:
        if resume and (locked or check_reproducible):
            raise UsageError(
                "--resume goes with neither --locked nor --check-reproducible",
                why="What the failed run left may be in the image.",
            )
        if on_error == "shell":
            _check_terminal(as_json=as_json)
        found = secrets.read(secret_words)
        shown.hide = secrets.masked(found)
        if junit:
            shown.watchers.append(Report(junit, recipe))
        wanted = options.Options(
            force=force,
            test=not notest,
            free=parse_size(free),
            use_cache=not no_cache,
            locked=lock.read(lock.beside(recipe)) if locked else None,
            sections=sections.Context(found, Shell(shown) if on_error == "shell" else None),
            keep=on_error == "keep",
            resume=resume,
            privilege=Mode(privilege) if privilege else None,
        )
        loaded = grammar.load(
            recipe, build_args=build_args, build_arg_file=build_arg_file, values=values
        )
        planned = plan.make(loaded, shown, arch)
        if check_reproducible:
            return reproducible.check(planned, image, wanted, shown)
        return engine.build(planned, image, wanted, shown)
    except SingbuildError as error:
        shown.error(error, None)
        return error.status


@click.command("plan")
@recipe_options
@click.option(
    "--rendered", is_flag=True, help="Print the recipe after its template is filled, not the plan."
)
def show_plan(
    recipe: str,
    build_args: tuple[str, ...],
    build_arg_file: Path | None,
    values: Path | None,
    arch: str,
    rendered: bool,
) -> int:
    """Print what a build would do, and why. Needs no privilege, writes nothing."""
    from singbuild.console import display
    from singbuild.plan import plan
    from singbuild.recipe import grammar

    loaded = grammar.load(
        recipe, build_args=build_args, build_arg_file=build_arg_file, values=values
    )
    if rendered:
        print(loaded.text, end="")
    else:
        print(plan.described(plan.make(loaded, display.Console(sys.stdout), arch)))
    return 0


@click.command("lock")
@recipe_options
@offline_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write the lock file here; by default beside RECIPE.",
)
def write_lock(
    recipe: str,
    build_args: tuple[str, ...],
    build_arg_file: Path | None,
    values: Path | None,
    arch: str,
    output: Path | None,
) -> int:
    """Write the exact inputs of a build into a lock file, for ``build --locked``."""
    from singbuild.console import display
    from singbuild.plan import lock, plan
    from singbuild.recipe import grammar

    loaded = grammar.load(
        recipe, build_args=build_args, build_arg_file=build_arg_file, values=values
    )
    planned = plan.make(loaded, display.choose(sys.stderr, as_json=False, quiet=False), arch)
    target = output or lock.beside(recipe)
    target.write_text(lock.dumped(lock.resolved(planned), Path(recipe).name))
    print(target)
    return 0


def _check_recipe_word(recipe: str) -> None:
    """A word that is no file but nearly a command was meant as the command."""
    group = click.get_current_context().find_root().command
    known = [*group.commands] if isinstance(group, click.Group) else []
    near = nearest(recipe, known)
    if recipe != "-" and not Path(recipe).exists() and near:
        raise UsageError(
            f"there is no recipe {recipe!r}", remedy=f"Did you mean the command: singbuild {near}?"
        )


def _check_terminal(*, as_json: bool) -> None:
    """Refuse a shell where nobody could type into it, or where it would disturb the events."""
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "--on-error=shell needs a terminal",
            remedy="Keep the tree with --on-error=keep, and go on with --resume.",
        )


COMMANDS = (build, show_plan, write_lock)
