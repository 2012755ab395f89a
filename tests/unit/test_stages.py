"""Recipes of several stages, and %post in several parts: what the text means, what is planned."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from singbuild.cache import splitting
from singbuild.console.display import Console
from singbuild.errors import RecipeError
from singbuild.plan import plan as plans
from singbuild.plan.plan import Plan
from singbuild.recipe.grammar import Recipe, parse
from singbuild.recipe.text import Text
from singbuild.tree import shell_state

TWO = """Bootstrap: busybox
Stage: build
%post
    true

Stage: final
Bootstrap: busybox
%files from build
    /opt/a /b
    /c
%files
    data /data
"""


def recipe(text: str) -> Recipe:
    return parse(Text("r.def", text))


def planned(text: str) -> Plan:
    return plans.make(recipe(text), Console(io.StringIO()))


def parts(*texts: str, program: str = "") -> list[list[int]]:
    """The lines at which the parts of each step begin."""
    sections = "".join(f"%post{program}\n    {text}\n" for text in texts)
    section = recipe(f"Bootstrap: busybox\n{sections}").sections["post"]
    return [list(part.places) for part in shell_state.parts(section)]


def test_a_header_begins_the_next_stage() -> None:
    last = recipe(TWO)
    assert last.stage == "final"
    assert [stage.stage for stage in last.stages] == ["build"]
    assert last.stages[0].sections["post"].body() == "    true\n\n"
    assert "post" not in last.sections
    rows = [(item.source, item.stage, item.line) for item in last.files]
    assert rows == [("/opt/a", "build", 9), ("/c", "build", 10), ("data", "", 12)]


def test_a_stage_may_be_a_header_alone() -> None:
    text = "Bootstrap: docker\nFrom: a\nStage: one\n\nBootstrap: docker\nFrom: b\nStage: two\n"
    last = recipe(text)
    assert [(s.stage, s.header("From").value) for s in (*last.stages, last)] == [  # type: ignore[union-attr]
        ("one", "a"),
        ("two", "b"),
    ]


def test_a_header_that_says_a_key_twice_is_no_second_stage() -> None:
    with pytest.raises(RecipeError, match="Bootstrap is given twice"):
        recipe("Bootstrap: busybox\nBootstrap: docker\nFrom: b\n")


def test_an_error_in_a_stage_names_its_line() -> None:
    with pytest.raises(RecipeError, match=r"r\.def:6:1: there is no section %posst"):
        recipe("Bootstrap: busybox\nStage: a\n%post\n    true\nBootstrap: busybox\n%posst\n")
    with pytest.raises(RecipeError, match=r"r\.def:2:1: busybox has no key Fromm"):
        planned(f"Bootstrap: busybox\nFromm: x\n{TWO.removeprefix('Bootstrap: busybox')}")


def test_what_is_needed_is_planned_and_the_rest_is_told_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (
        "Bootstrap: busybox\nStage: base\n%post\n    true\n"
        "Bootstrap: busybox\nStage: unused\n%files from base\n    /x\n"
        "Bootstrap: busybox\nStage: middle\n%files from base\n    /y\n"
        "Bootstrap: busybox\n%files from middle\n    /z\n"
    )
    plan = planned(text)
    assert [stage.recipe.stage for stage in plan.stages] == ["base", "middle"]
    assert (
        "r.def:5: the stage unused is not built: nothing copies from it" in capsys.readouterr().err
    )
    described = plans.described(plan)
    assert "stage base: Bootstrap: busybox" in described
    assert "post       %post at line 3: in the image, as root" in described
    assert "files      %files at line 11: copied from stage base" in described
    names = [stage.bootstrap for stage in plan.as_build(Path("/a"), locked=False).stages]
    assert names == ["busybox", "busybox"]


def test_several_posts_are_steps_with_their_lines() -> None:
    plan = planned("Bootstrap: busybox\n%post\n    A=1\n%test\n    true\n%post\n    B=1\n%post\n")
    steps = {step.name: step.reason for step in plan.steps if step.name.startswith("post")}
    assert [*steps] == ["post-1", "post-2"]  # the third is empty
    assert steps["post-2"].startswith("%post at line 6:")


@pytest.mark.parametrize(
    ("texts", "program", "steps"),
    [
        (("A=1", "B=1", "C=1"), "", [[2], [4], [6]]),
        (("A=1",), "", [[2]]),
        (("f() { true; }", "f", "g"), "", [[2, 4], [6]]),
        (("f() { true; }", "f"), " -c /bin/bash", [[2], [4]]),
        (("exec > /log", "f"), " -c /bin/bash", [[2, 4]]),
        (("import os", "os.sync()"), " -c /usr/bin/python3", [[2, 4]]),
        (("A=1", "B=1"), ' -c "/usr/bin/env bash"', [[2], [4]]),
        (("A=1", "B=1"), " -c /bin/zsh", [[2, 4]]),
    ],
)
def test_parts_whose_shell_cannot_hand_on_what_it_knows_are_one_step(
    texts: tuple[str, ...], program: str, steps: list[list[int]]
) -> None:
    assert parts(*texts, program=program) == steps


def test_a_program_named_in_the_first_line_counts_for_all_parts() -> None:
    text = "Bootstrap: busybox\n%post\n    #!/bin/bash\n    A=(1 2)\n%post\n    echo ${A[1]}\n"
    rows = shell_state.parts(recipe(text).sections["post"])
    assert [part.interpreter for part in rows] == ["/bin/bash", "/bin/bash"]
    assert rows[1].recipe_line(6) == 6


@pytest.mark.parametrize(
    ("text", "changed", "place"),
    [
        ("one\n    two\n    three", 2, 5),
        ("one\n    if a; then\n        two\n    fi\n    three", 3, 4),  # not inside the if
        ("one\n    cat <<END\n    x\n    y\nEND\n    three", 3, 4),
        ("f() { a; }\n    two\n    three", 2, 0),  # sh hands no functions on
        ("one\n    two", 0, 0),
    ],
)
def test_where_a_post_would_best_have_been_split(text: str, changed: int, place: int) -> None:
    section = recipe(f"Bootstrap: busybox\n%post\n    {text}\n").sections["post"]
    before = splitting.lines_of(section)
    before[changed] = "other"
    began = {line.number: 50.0 + n for n, line in enumerate(section.lines)}
    hint = splitting.hint(section, before, began, 60.0)
    assert f"before line {place} " in hint if place else hint == ""


def test_no_hint_where_little_would_be_saved() -> None:
    section = recipe("Bootstrap: busybox\n%post\n    one\n    two\n").sections["post"]
    before = [splitting.lines_of(section)[0], "other"]
    assert splitting.hint(section, before, {3: 0.0, 4: 4.0}, 5.0) == ""
    assert splitting.hint(section, before, {3: 0.0, 4: 40.0}, 100.0) == ""
    assert "before line 4 " in splitting.hint(section, before, {3: 0.0, 4: 60.0}, 100.0)
