"""``completion``: that of singularity or apptainer, the builder's verbs and the runtime's."""

from __future__ import annotations

import click

from singbuild.cli.parameters import shell_argument

_OWN = ("cache", "config")  # verbs of singrun that are the builder's here, or are not there


@click.command("completion")
@shell_argument
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print completion for a shell: bash, zsh or fish."""
    from singbuild.cli.completion_script import of_group, script
    from singrun.verbs import words

    root = context.find_root()
    name, verbs = root.info_name or "", root.command
    assert isinstance(verbs, click.Group)
    without = {*verbs.commands, *_OWN}
    runtime = [row for row in words.rows(name) if f"{row[0]} {row[1]}".split()[1] not in without]
    print(script(shell, {name: [*of_group(verbs, name), *runtime]}), end="")
    return 0
