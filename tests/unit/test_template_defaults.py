"""Templates: defaults in %arguments that are made of other values."""

import pytest

from singbuild.errors import RecipeError
from tests.unit.test_template import _in_a_directory_of_its_own, filled

__all__ = ["_in_a_directory_of_its_own"]


def test_a_default_may_use_other_arguments() -> None:
    arguments = "image={{ base }}-{{KIND}}\nbase=cuda:{{ v }}\nv=12\nKIND=devel\n"
    assert filled("{{ image }}", arguments=arguments) == "cuda:12-devel"
    assert filled("{{ image }}", "v=13", "KIND={{ v }}", arguments=arguments) == "cuda:13-{{ v }}"
    assert filled("{{ image }}", arguments=arguments, values="v: 14\n") == "cuda:14-devel"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("a={{ b }}\nb={{ a }}", "a uses itself"),
        ("a={{ a }}", "a uses itself"),
        ("a=1\nc={{ d }}", "d has no value"),
        ("a=" + "{{ b }}" * 20000 + "\nb=" + "x" * 20000, "renders to more than 16 MiB"),
        (f"a={'x' * (8 << 20)}\n" + "".join(f"b{n}={{{{ a }}}}\n" for n in range(200)), "16 MiB"),
    ],
)
def test_a_default_that_cannot_be_filled(arguments: str, what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        filled("{{ a }}", arguments=arguments)
    assert what in str(caught.value)


def test_defaults_may_lead_through_many_others() -> None:
    arguments = "".join(f"a{n}={{{{ a{n + 1} }}}}\n" for n in range(20_000)) + "a20000=end\n"
    assert filled("{{ a0 }}", arguments=arguments) == "end"


def test_a_default_has_no_text_for_a_list() -> None:
    with pytest.raises(RecipeError) as caught:
        filled("{{ a }}", arguments="a={{ b }}", values="b: [1]\n")
    assert caught.value.line == 3
    assert caught.value.why == "A list is no text; use a filter or a loop."
