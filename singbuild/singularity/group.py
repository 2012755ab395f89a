"""A command with commands of its own; those of 3.x that are missing are refused in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from singbuild.errors import SingbuildError, UsageError
from singrun.errors import nearest


class Group(click.Group):
    """Commands below one word.

    absent: by word of 3.x, why there is none and what does the same. elsewhere: words that
    another program takes before they come here.
    """

    def __init__(
        self,
        *words: Any,
        absent: Mapping[str, str] | None = None,
        elsewhere: tuple[str, ...] = (),
        **more: Any,
    ) -> None:
        super().__init__(*words, **more)
        self._absent, self._elsewhere = dict(absent or {}), elsewhere

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or refuse the word."""
        word = args[0]
        name = f"{self.name} {word}" if context.parent else word
        if word in self._absent:
            raise SingbuildError(f"there is no verb {name} here", why=self._absent[word])
        if word not in self.commands and not word.startswith("-"):
            near = nearest(word, [*self.commands, *self._elsewhere])
            remedy = f"Did you mean {near}?" if near else f"See: {context.command_path} --help"
            if not context.parent and Path(word).exists():
                remedy = f"To run the image: {context.command_path} run {word}"
            raise UsageError(f"there is no verb {name}", remedy=remedy)
        return super().resolve_command(context, args)
