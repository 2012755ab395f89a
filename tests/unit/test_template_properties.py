"""Whatever a template and its values are: text, or an error that can be shown."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from singbuild.errors import RecipeError, UsageError
from singbuild.recipe.rendering import Filled, fill
from singbuild.recipe.text import Text
from singbuild.recipe.values_file import from_yaml

PIECES = [
    *("{{", "}}", "{%", "%}", "{%-", "-%}", "{#", "#}", "${#a}", "\n", " ", "a", "b.c", "'", '"'),
    *("|upper", "|join(' ')", " if a ", " else ", "[", "]", "(", ")", "é", "%arguments\na=1\n"),
    *("{% for i in b.c %}\n", "{% endfor %}", "{{ i }}", "{% raw %}", "{% endraw %}", "%post\n"),
    *(
        "{% set x %}\n",
        "{% endset %}",
        "{{ x }}",
        "{{ loop.index }}",
        "{% macro m() %}",
        "{{ m() }}",
    ),
]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=2), max_size=12).map("".join)
texts = texts.map(lambda text: re.sub("[\r\0]", "", text))


def attempt(text: str, *build_args: str, values: str = "b: {c: [1, x]}\n") -> Filled | None:
    try:
        return fill(("r.def", text), build_args, None, ("v.yaml", values))
    except (RecipeError, UsageError) as error:
        assert str(error)  # noqa: PT017
        return None


@given(texts)
@settings(max_examples=400, deadline=None)
def test_any_template_is_text_or_an_error(text: str) -> None:
    result = attempt(text)
    if result and result.origins:
        assert len(result.origins) == len(Text("", result.text).lines)
        assert all(1 <= n <= text.count("\n") + 1 for n in result.origins)


@given(texts)
@settings(max_examples=200, deadline=None)
def test_a_recipe_that_is_not_a_template_in_any_line_is_left_alone(text: str) -> None:
    plain = re.sub(r"\{(?=[{%])", "{ ", text).replace("%arguments", "%help")
    result = attempt(plain)
    assert result is not None
    assert result.text == plain
    assert result.origins == tuple(range(1, len(Text("", plain).lines) + 1))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
@settings(deadline=None)
def test_a_value_is_data(value: str) -> None:
    result = attempt("[{{ a }}]", f"a={value}")
    assert result is not None
    assert result.text == f"[{value}]"


@given(st.lists(st.text(max_size=8), max_size=3))
@settings(deadline=None)
def test_any_option_is_taken_or_refused(build_args: list[str]) -> None:
    attempt("{{ a }}", *build_args)


yaml_pieces = [
    "a",
    ": ",
    "\n",
    "  ",
    "- ",
    "&x ",
    "*x",
    "!!int ",
    "<<",
    "?",
    "[",
    "]",
    "{",
    "}",
    ",",
]
yaml_pieces += [
    "1",
    "0x",
    "'",
    '"',
    "|\n",
    "---",
    "!!binary ",
    "!!float ",
    "!!omap ",
    "\t",
    "%",
    "#",
]


@given(st.lists(st.sampled_from(yaml_pieces) | st.text(max_size=2)).map("".join))
@settings(max_examples=500, deadline=None)
def test_any_values_file_is_plain_data_or_a_located_error(text: str) -> None:
    try:
        value = from_yaml(Text("v.yaml", text))
    except RecipeError as error:
        assert str(error).startswith("v.yaml")  # noqa: PT017
        assert error.line <= text.count("\n") + 1  # noqa: PT017
    else:
        assert plain(value)


def plain(value: object) -> bool:
    match value:
        case dict():
            return all(isinstance(key, str) and plain(item) for key, item in value.items())
        case list():
            return all(map(plain, value))
    return value is None or isinstance(value, (str, int, bool))
