"""What is planned of recipes as Singularity and Apptainer take them, and what is said of them."""

import io

import pytest

from singbuild.console.display import Console
from singbuild.errors import RecipeError
from singbuild.plan.plan import Plan, make
from singbuild.recipe.grammar import parse
from singbuild.recipe.text import Text

HEAD = "Bootstrap: busybox\n"


def planned(text: str) -> tuple[Plan, str]:
    """Plan a recipe; return the plan and what was said."""
    said = io.StringIO()
    return make(parse(Text("r.def", text)), Console(said)), said.getvalue()


def refused(text: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        planned(text)
    return caught.value


def test_the_only_stage_may_have_a_name() -> None:
    plan, said = planned(HEAD + "Stage: spython-base\n%post\n    true\n")
    assert "Stage" not in plan.source.keywords
    assert not said
