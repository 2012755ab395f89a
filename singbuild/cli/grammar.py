"""Commands as CONTRIBUTING.md's grammar has them: examples and groups of options in every --help.

Knows nothing of what a command does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from singbuild.cli import strangers
from singbuild.configuration import settings
from singbuild.errors import UsageError

HELP = {"help_option_names": ["-h", "--help"]}


class Command(click.Command):
    """A command. examples: command lines; groups: titles of options, and the names under each.

    Options of no group stand last, as "Options".
    """

    def __init__(
        self,
        *arguments: Any,
        examples: Sequence[str] = (),
        groups: Mapping[str, Sequence[str]] | None = None,
        **keywords: Any,
    ) -> None:
        keywords["context_settings"] = HELP | (keywords.get("context_settings") or {})
        super().__init__(*arguments, **keywords)
        self.examples, self.groups = tuple(examples), dict(groups or {})

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Parse; a flag may say yes or no, --FLAG=no being the way past a configuration file."""
        flags = {
            word: parameter.name
            for parameter in self.get_params(context)
            if isinstance(parameter, click.Option) and parameter.is_flag
            for word in parameter.opts
        }
        words: list[str] = []
        for word in args:
            name, equals, value = word.partition("=")
            if "--" in words or not equals or flags.get(name) is None:
                words.append(word)
                continue
            if value.lower() not in (*settings.YES, *settings.NO):
                raise UsageError(f"{name}: {value!r} is neither yes nor no")
            words = [each for each in words if each != name]  # the last one counts
            if settings.is_yes(value):
                words.append(name)
            context.default_map = {**(context.default_map or {}), str(flags[name]): False}
        return super().parse_args(context, words)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, one list for each group."""
        records: dict[str, list[tuple[str, str]]] = {}  # several options may set one parameter
        for parameter in self.get_params(context):
            if isinstance(parameter, click.Option) and (
                record := parameter.get_help_record(context)
            ):
                records.setdefault(str(parameter.name), []).append(record)
        for title, names in self.groups.items():
            with formatter.section(f"{title} options"):
                formatter.write_dl([record for name in names for record in records.pop(name)])
        with formatter.section("Options"):
            formatter.write_dl([record for group in records.values() for record in group])

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, as they are typed."""
        if self.examples:
            with formatter.section("Example" if len(self.examples) == 1 else "Examples"):
                for example in self.examples:
                    formatter.write(f"  {example}\n")
        super().format_epilog(context, formatter)


class Group(click.Group):
    """A command with commands of its own; a word that is none of them is explained."""

    command_class = Command

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        keywords["context_settings"] = HELP | (keywords.get("context_settings") or {})
        super().__init__(*arguments, **keywords)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Parse; called without a word, print the help as an error does."""
        if not args:
            click.echo(context.get_help(), err=True)
            context.exit(UsageError.status)
        return super().parse_args(context, args)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; raises UsageError that proposes another one."""
        if args and args[0] not in self.commands:
            raise strangers.no_command(args[0], [*self.commands], context.command_path)
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with a whole sentence each; click itself would cut them."""
        rows = [
            (name, self.commands[name].get_short_help_str(limit=200))
            for name in self.list_commands(context)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
