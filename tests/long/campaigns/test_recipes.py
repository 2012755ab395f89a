"""Recipes, made of others' pieces and damaged, are parsed or refused with a place."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from singbuild.dockerfile import loading
from singbuild.dockerfile.evaluation import evaluate
from singbuild.errors import RecipeError
from singbuild.recipe.grammar import parse
from singbuild.recipe.rendering import fill
from singbuild.recipe.text import Text
from tests.bench import campaign
from tests.bench.dockerfile_features import FEATURES

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]
pytestmark += [pytest.mark.slow("a campaign")]
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
        result = error
    else:
        return "taken"
    lines = text.split("\n")
    assert 0 <= result.line <= len(lines)
    assert 0 <= result.column <= len(lines[result.line - 1]) + 1
    assert "\x1b" not in str(result)
    return "refused with a place"


def test_a_damaged_recipe_is_parsed_or_refused_with_a_place() -> None:
    campaign.run("recipes", lambda chance: outcome(texts(chance), parse))


CONFIG: dict[str, object] = {
    "Env": ["PATH=/bin", "A=b c", "X"],
    "OnBuild": ["RUN true", "ENV A=$A", "COPY a b"],
    "Shell": ["/bin/sh", "-c"],
    "Cmd": ["a"],
    "Entrypoint": ["/b"],
    "Labels": {"k": "v"},
    "ExposedPorts": {"1/tcp": {}},
    "Volumes": {"/v": {}},
    "User": "joe",
    "WorkingDir": "/w",
    "StopSignal": "9",
    "Healthcheck": {"Test": ["NONE"]},
}
VALUES: tuple[object, ...] = (
    5,
    None,
    [5],
    [[]],
    "x",
    "",
    {},
    {"a": 5},
    "\ud800",
    "a\0b",
    "$" * 99,
    1e999,
    True,
    "[[[",
)
WORDS = (
    *(b"FROM scratch AS a\n", b'RUN ["a"]\n', b"RUN <<E\nE\n", b"COPY --from=a ", b"$A ${A:-b}"),
    *(b"ARG A=1\n", b"ONBUILD ", b"SHELL []\n", b"--mount=type=cache,target=/x ", b"\\\n", b'"'),
    *(b"[" * 5000, b"${A:-" * 500, b"EXPOSE 1", b"VOLUME /x", b"LABEL a=b", b"USER \0"),
)


def configuration(chance: random.Random) -> dict[str, object]:
    """That of a base image, with other values in it."""
    result = dict(CONFIG)
    for _ in range(chance.randrange(4)):
        key, value = chance.choice([*CONFIG]), chance.choice(VALUES)
        kind = chance.randrange(3)
        result[key] = [value] if kind == 0 else {"a": value} if kind == 1 else value
    return result


def test_a_damaged_dockerfile_is_evaluated_or_refused_with_a_place() -> None:
    texts = [each.text.replace("{base}", "x").encode() for each in FEATURES]

    def check(chance: random.Random) -> str:
        one, other = chance.choice(texts), chance.choice(texts)
        whole = one + b"\n" + other.split(b"\n", 1)[-1] if chance.randrange(2) else one
        text = campaign.mutated(whole, chance, WORDS).decode(errors="replace")

        def read(source: Text) -> None:
            recipe = loading.parse(source, {})
            for stage in (*recipe.stages, recipe):
                evaluate(stage, configuration(chance), "x86_64", lambda _: None)

        return outcome(text, read)

    campaign.run("Dockerfiles", check)


def test_a_damaged_template_is_filled_or_refused_with_a_place() -> None:
    def check(chance: random.Random) -> str:
        return outcome(
            texts(chance),
            lambda text: fill((text.path, text.text), (), None, None),
        )

    campaign.run("templates", check)
