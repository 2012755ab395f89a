"""Whatever the text is: a recipe or an error that can be shown, and nothing is lost."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from singbuild.errors import RecipeError
from singbuild.recipe.grammar import SECTIONS, Recipe, load, parse
from singbuild.recipe.text import Text, printable
from tests.bench.host import processor_time

PIECES = [
    *(
        "Bootstrap: x\n",
        "bootstrap:",
        "Include: a \\\n",
        "Stage: a\n",
        "# c",
        " #",
        "\\",
        ":",
        "\n",
    ),
    *(f"%{name}" for name in (*SECTIONS, "pre", "d", "%x", "post -c", "files from x")),
    *("'", '"', "<<END", "END\n", "#!/bin/sh\n", "{{ a }}", "{%", "a=b\n", "\t", " ", "é", "\x1b"),
]
recipes = st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map("".join)


def parsed(text: str) -> Recipe | RecipeError:
    try:
        return parse(Text("r.def", text))
    except RecipeError as error:
        return error


@given(recipes)
@settings(max_examples=500)
def test_any_text_is_a_recipe_or_a_located_error(text: str) -> None:
    value = parsed(text)
    if isinstance(value, RecipeError):
        lines = text.split("\n")
        assert 0 <= value.line <= len(lines)
        assert 0 <= value.column <= len(lines[value.line - 1]) + 1
        assert value.remedy
        assert "\x1b" not in str(value)
    else:
        assert value.bootstrap
        assert all(section.executable().startswith("#!") for section in value.sections.values())


@given(st.binary(max_size=200) | recipes.map(str.encode))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_recipe_or_a_located_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "r.def"
    path.write_bytes(data.replace(b"%arguments", b"%help"))
    try:
        assert load(str(path)).bootstrap
    except RecipeError as error:
        assert str(error).startswith(str(path))  # noqa: PT017


shell_lines = st.lists(
    st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=20)
    .map(lambda line: f"%{line}" if line.startswith("%") else line)
    .map(lambda line: line.replace("<<", "<")),
    max_size=8,
).filter(
    lambda lines: not any(line.lower().lstrip("%").startswith(("boot", "osb")) for line in lines)
)


@given(shell_lines, shell_lines)
def test_bodies_come_out_as_they_went_in(first: list[str], second: list[str]) -> None:
    text = "".join(
        ["Bootstrap: x\n%post\n", *(f"{line}\n" for line in first), "%help\n%post\n"]
        + [f"{line}\n" for line in second]
    )
    section = parse(Text("r.def", text)).sections["post"]
    unescaped = [line[1:] if line.startswith("%%") else line for line in first + second]
    assert [line.text for line in section.lines] == unescaped
    script, lines = section.script().split("\n"), text.split("\n")
    for line in section.lines:
        assert script[line.number - 1] == line.text
        assert lines[line.number - 1].removeprefix("%").removeprefix("%") in line.text


names = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters="\\\"'"), min_size=1
)


@given(names, names)
def test_quoted_names_with_blanks_survive(a: str, b: str) -> None:
    value = parse(Text("r.def", f"Bootstrap: x\n%files\n'{a} {b}' \"{b} {a}\"\n"))
    assert [(item.source, item.destination) for item in value.files] == [(f"{a} {b}", f"{b} {a}")]


@given(st.text())
def test_printable_is_printable(text: str) -> None:
    line = printable(text, keep=1000)
    assert all(c.isprintable() or c == "\t" for c in line)
    assert len(line) == len(text)


@pytest.mark.parametrize(
    "text",
    [
        "%" + "a" * 700_000,
        "Bootstrap: x\n%files\n" + "a " * 170_000,
        "Bootstrap: x\n%files\n" + "\\a" * 170_000 + '"',
        "Bootstrap: x\nInclude: " + " " * 340_000 + "a",
        "Bootstrap: x\nInclude: " + "a #" * 170_000,
        "Bootstrap: x\n" + "Include: a \\\n" + "  b \\\n" * 30_000 + " c\n",
        "Bootstrap: x\n" + "%post\n" * 30_000,
        "Bootstrap: x\n" + "%labels\n" + "".join(f"k{n} v\n" for n in range(30_000)),
        "Bootstrap: x\n%post\n" + "".join(f"cat <<E{n}\n%test\n" for n in range(14_000)),
    ],
    ids=lambda text: text[:24].strip() + text[-8:].strip(),
)
def test_time_grows_with_the_text_and_not_faster(text: str) -> None:
    with processor_time(2):  # a tenth of it; where it grows faster, minutes
        parsed(text)
