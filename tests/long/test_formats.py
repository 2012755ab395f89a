"""Other formats, with more recipes and more kills than in `make test`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.bench.singrun_images import ROOT, Person
from tests.host.images.test_formats_built import built_alike, conversions_killed, people, place

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]
__all__ = ["people", "place"]


@pytest.mark.parametrize("form", ["squashfs", "sif", "sif-ext3"])
@pytest.mark.parametrize("name", ["small-debian", "hello"])
def test_a_recipe_gives_everybody_the_same_bytes(
    place: Path, people: list[Person], mini_debian: str, name: str, form: str
) -> None:
    text = f"Bootstrap: debootstrap\n{mini_debian}\n%post\n    date > /date; mkfifo /fifo\n"
    recipe = place / f"{name}.def"
    recipe.write_text(text + "    rm /date\n")
    if name == "hello":
        shutil.copy(ROOT / "recipes/busybox.def", recipe)
    built_alike(place, people, form, recipe.name)


def test_conversions_are_killed_by_the_hundred(place: Path, people: list[Person]) -> None:
    conversions_killed(place, people[1], 30)
