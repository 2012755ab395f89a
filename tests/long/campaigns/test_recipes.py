"""Recipes, made of others' pieces and damaged, are parsed or refused with a place."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from singbuild.errors import RecipeError
from singbuild.recipe.grammar import parse
from singbuild.recipe.rendering import fill
from singbuild.recipe.text import Text
from tests.bench import campaign

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]
RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.def"))
TOKENS = (
    *(
        b"{{",
        b"}}",
        b"{%",
        b"%}",
        b"{#",
        b"{% for a in range(9) %}",
        b"{{ a|b }}",
        b"'",
        b'"',
        b"\0",
    ),
    *(b"%post", b"%files from a", b"Stage: a\n", b"Bootstrap: x", b"%arguments\n    a=b\n", b": "),
    *(b"<<END\n", b"END\n", b"#!/bin/sh", b"\\\n", b"\x1b[0m", b"\r\n", b"\xe2\x80\xa8", b"\t"),
)


def texts(chance: random.Random) -> str:
    one, other = (chance.choice(RECIPES).read_bytes() for _ in range(2))
    cut = chance.randrange(len(one)), chance.randrange(len(other))
    whole = one[: cut[0]] + other[cut[1] :] if not chance.randrange(3) else one
    return campaign.mutated(whole, chance, TOKENS).decode(errors="replace")


def outcome(text: str, read: Callable[[Text], object]) -> str:
    """Read a text; what is refused has a place in it."""
    try:
        read(Text("r.def", text))
    except RecipeError as error:
        found = error
    else:
        return "taken"
    lines = text.split("\n")
    assert 0 <= found.line <= len(lines)
    assert 0 <= found.column <= len(lines[found.line - 1]) + 1
    assert "\x1b" not in str(found)
    return "refused with a place"


def test_a_damaged_recipe_is_parsed_or_refused_with_a_place() -> None:
    campaign.run("recipes", lambda chance: outcome(texts(chance), parse))


def test_a_damaged_template_is_filled_or_refused_with_a_place() -> None:
    def check(chance: random.Random) -> str:
        return outcome(
            texts(chance),
            lambda text: fill((text.path, text.text), (), None, None),
        )

    campaign.run("templates", check)
