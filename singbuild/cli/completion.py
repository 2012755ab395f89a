"""``completion``: prints the script by which a shell completes words of singbuild and singrun."""

from __future__ import annotations

import click

from singbuild.cli.grammar import Command
from singbuild.cli.parameters import shell_argument

BUILDER, RUNTIME = "singbuild", "singrun"


@click.command(
    "completion",
    cls=Command,
    examples=(
        'eval "$(singbuild completion bash)"',
        "singbuild completion zsh >~/.zfunc/_singbuild",
        "singbuild completion fish >~/.config/fish/completions/singbuild.fish",
    ),
)
@shell_argument
@click.argument("programs", nargs=-1, type=click.Choice([BUILDER, RUNTIME]))
@click.pass_context
def completion(context: click.Context, shell: str, programs: tuple[str, ...]) -> int:
    """Print the completion of singbuild and singrun, or of one of them, for a shell.

    An installation has it where each shell looks by itself, below share/ of its prefix.
    `singularity completion` and `apptainer completion` print theirs.
    """
    from singbuild.cli.completion_script import of_builder, script
    from singrun.verbs import words

    commands = context.find_root().command
    assert isinstance(commands, click.Group)
    tables = {BUILDER: of_builder(commands), RUNTIME: words.rows()}
    print(script(shell, {name: tables[name] for name in programs or tables}), end="")
    return 0


COMMANDS = (completion,)
