"""``plan`` and ``lock``: what a build would do, and what exactly would go into it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from singbuild.cli.convert import format_option
from singbuild.cli.grammar import Command
from singbuild.cli.parameters import (
    FILE,
    document,
    json_option,
    offline_option,
    quiet_option,
    recipe_options,
    unused_option,
    unused_warning,
)
from singbuild.errors import HostError, RecipeError

if TYPE_CHECKING:
    from singbuild.console.display import Console
    from singbuild.plan.plan import Plan


@click.command(
    "plan",
    cls=Command,
    examples=("singbuild plan tool.def", "singbuild plan --rendered --values v.yaml tool.def.j2"),
)
@recipe_options
@unused_option
@click.option(
    "--rendered", is_flag=True, help="Print the recipe after its template is filled, not the plan."
)
@json_option
def show_plan(
    recipe: str,
    build_args: tuple[str, ...],
    build_arg_file: Path | None,
    values: Path | None,
    arch: str,
    warn_unused: bool,
    rendered: bool,
    as_json: bool,
) -> int:
    """Print what a build would do, and why. Needs no privilege, writes nothing."""
    from singbuild.console import display
    from singbuild.dockerfile import loading
    from singbuild.plan import plan, policy
    from singbuild.plan.options import Options

    console = display.Console(sys.stderr)
    loaded = loading.load(
        recipe,
        build_args=build_args,
        build_arg_file=build_arg_file,
        values=values,
        on_unused=unused_warning(console) if warn_unused else None,
    )
    if rendered:
        print(loaded.text, end="")
        return 0
    planned = plan.make(loaded, console, arch)
    policy.check(planned, Options(command="plan"))
    _ask_site(planned, recipe, console)
    _ask_host(planned, console)
    if as_json:
        document("plan", **plan.facts(planned))
    else:
        print(plan.described(planned))
    return 0


@click.command(
    "lock", cls=Command, examples=("singbuild lock tool.def && singbuild --locked tool.def t.img",)
)
@recipe_options
@unused_option
@format_option
@offline_option
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="FILE",
    help="Write the lock file here; by default beside RECIPE.",
)
@json_option
@quiet_option
def write_lock(
    recipe: str,
    build_args: tuple[str, ...],
    build_arg_file: Path | None,
    values: Path | None,
    arch: str,
    warn_unused: bool,
    form: str,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Write the exact inputs of a build into a lock file, for `singbuild --locked`.

    With --format also the program that will write the image, and its version. A lock that is there
    is written anew. Prints its name.
    """
    from singbuild.console import choice
    from singbuild.dockerfile import loading
    from singbuild.formats import loading as formats
    from singbuild.plan import job, lock, options, plan, policy

    console = choice.choose(sys.stderr, as_json=False, quiet=quiet)
    loaded = loading.load(
        recipe,
        build_args=build_args,
        build_arg_file=build_arg_file,
        values=values,
        on_unused=unused_warning(console) if warn_unused else None,
    )
    planned = plan.make(loaded, console, arch)
    policy.check(planned, options.Options(command="plan"))
    target = output or lock.beside(recipe)
    writer = formats.find(form).writer() if form else ""
    resolved = job.resolve(planned, options.Options(writer=writer), plan.downloads)
    target.write_text(lock.dumped(resolved.lock, Path(recipe).name))
    if as_json:
        document("lock", file=str(target), lock=resolved.lock)
    else:
        print(target)
    return 0


def _ask_site(planned: Plan, recipe: str, console: Console) -> None:
    """Warn of what site extensions would say of a build; with a lock they may say less."""
    from singbuild.backends import extensions

    build_facts = planned.as_build(Path(recipe).with_suffix(".img"), "plan", locked=False)
    try:
        extensions.load(console).check(build_facts)
    except RecipeError as error:
        console.warn(f"{error.what}\n{error.why}")


def _ask_host(planned: Plan, console: Console) -> None:
    """Warn of what this host lacks for a build, which may be meant for another one."""
    from singbuild.plan import preflight

    for each in (*planned.stages, planned):
        for check in (preflight.check_backend, preflight.check_files):
            try:
                check(each)
            except (HostError, RecipeError) as error:
                console.warn("\n".join(filter(None, (error.what, error.why, error.remedy))))


COMMANDS = (show_plan, write_lock)
