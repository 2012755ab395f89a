"""Stages of a Dockerfile: which name means which tree; triggers of base images; steps' names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from singbuild.console.events import Event
from singbuild.console.junit import Report
from singbuild.dockerfile import files, loading
from singbuild.dockerfile.actions import Copy, Evaluation, Run
from singbuild.dockerfile.evaluation import evaluate
from singbuild.errors import RecipeError, SectionError
from singbuild.plan import plan
from singbuild.recipe.recipe import Recipe
from singbuild.recipe.text import Text
from singbuild.testing.engine import Recorder


def recipe(text: str, target: str = "", **arguments: str) -> Recipe:
    return loading.parse(Text("Dockerfile", text), arguments, target)


def stages(text: str) -> list[tuple[str, str, str]]:
    """Name, image and base of each stage, the last one included."""
    last = recipe(text)
    rows = []
    for each in (*last.stages, last):
        header = each.header("From")
        assert header
        rows.append((each.stage, header.value, each.base))
    return rows


def evaluated(text: str, *triggers: str) -> Evaluation:
    base: Mapping[str, Any] = {"OnBuild": [*triggers]}
    return evaluate(recipe(f"FROM base\n{text}"), base, "x86_64", lambda _: None)


def refused(text: str, *triggers: str) -> str:
    with pytest.raises(RecipeError) as caught:
        evaluated(text, *triggers)
    return str(caught.value)


def test_tags_of_images_are_told_from_each_other_by_case() -> None:
    last = recipe("FROM scratch\nCOPY --from=foo:A /x /a\nCOPY --from=foo:a /x /b\n")
    assert last.uses == ("foo:A", "foo:a")
    assert [stage.stage for stage in last.stages] == ["foo:A", "foo:a"]


def test_an_image_that_was_copied_from_is_no_base() -> None:
    rows = stages("FROM scratch AS one\nCOPY --from=foo:A /x /a\nFROM foo:a\n")
    assert rows == [("foo:A", "foo:A", ""), ("one", "scratch", "scratch"), ("stage-1", "foo:a", "")]


@pytest.mark.parametrize(
    "text",
    [
        "FROM a AS stage-1\nFROM b\nFROM c\nCOPY --from=stage-1 /x /y\n",
        "FROM a\nFROM b AS stage-0\nFROM c\nCOPY --from=stage-0 /x /y\n",
        "FROM a\nFROM b\nFROM c\nCOPY --from=stage-1 /x /y\n",
        "FROM a\nFROM b\nFROM c\nRUN --mount=type=bind,from=stage-1,target=/x true\n",
    ],
)
def test_no_two_stages_have_one_name(text: str) -> None:
    names = [name for name, _, _ in stages(text)]
    assert len(set(names)) == len(names)


def test_a_name_that_was_made_up_means_no_stage_for_instructions() -> None:
    last = recipe("FROM a AS stage-1\nFROM b\nFROM scratch\nCOPY --from=stage-1 /x /y\n")
    source = next(each.header("From") for each in last.stages if each.stage in last.uses)
    assert source
    assert source.value == "a"
    assert stages("FROM a\nFROM scratch\nCOPY --from=stage-0 /x /y\n")[1][:2] == ("stage-0",) * 2


def test_a_target_may_be_called_as_it_is_told() -> None:
    assert recipe("FROM a\nFROM b\n", "stage-0").stage == "stage-0"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("FROM a AS scratch\n", "scratch is no name for a stage"),
        ("FROM a\nCOPY --from=scratch /x /y\n", "COPY from scratch: nothing is there"),
        ("FROM a\nCOPY --from= /x /y\n", "COPY from an empty name: nothing is there"),
        ("FROM a\nRUN --mount=target=/x,from= true\n", "RUN from an empty name"),
        ("FROM a\nRUN --mount=target=/x,from true\n", "RUN from an empty name"),
        ("ARG N=a,b\nFROM a\nRUN --mount=target=/x,from=$N true\n", "RUN from "),
        ("FROM a AS b\nCOPY --from=b /x /y\n", "the stage b reads itself"),
        ("FROM a\nCOPY --from=0 /x /y\n", "the stage stage-0 reads itself"),
        ("ARG A='x\nFROM a\n", "the quote ' is not closed"),
    ],
)
def test_names_that_lead_nowhere_are_refused(text: str, what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        recipe(text)


def test_a_variable_names_the_image_of_a_mount() -> None:
    last = recipe("ARG N=foo:1\nFROM base\nRUN --mount=target=/x,from=${N} true\n")
    (action,) = evaluate(last, {}, "x86_64", lambda _: None).actions
    assert isinstance(action, Run)
    assert last.uses == (action.mounts[0].fields["from"],) == ("foo:1",)


def test_no_trigger_of_an_image_that_is_copied_from_is_executed() -> None:
    (image,) = plan.make(recipe("FROM scratch\nCOPY --from=foo /x /y\n"), Recorder()).stages
    assert (image.recipe.stage, image.recipe.is_dockerfile) == ("foo", False)
    assert [step.name for step in image.steps] == ["bootstrap"]


@pytest.mark.parametrize(
    ("trigger", "what"),
    [
        ("FROM x", "Dockerfile:1: ONBUILD FROM is not allowed"),
        ("ONBUILD RUN x", "ONBUILD ONBUILD is not allowed"),
        ("COPY --from=x /a /b", "the base's ONBUILD COPY reads another stage or image, x"),
        ("RUN --mount=target=/m,from=x true", "ONBUILD RUN reads another stage or image, x"),
        ("RUN --mount=target=/m,from= true", "ONBUILD RUN reads another stage or image"),
        ("RUN a\nRUN b", "there is no instruction, or more than one"),
        ("RUN cat <<E\nx", "the here-document E does not end"),
        ("COPY [", "COPY has sources and a destination"),
    ],
)
def test_a_trigger_that_cannot_be_executed_is_refused(trigger: str, what: str) -> None:
    assert what in refused("", trigger)


def test_a_trigger_brings_its_here_documents() -> None:
    (trigger,) = evaluated("ONBUILD COPY <<E /x\none\n  two\nE\n").config["OnBuild"]
    assert trigger == "COPY <<E /x\none\n  two\nE"
    (action,) = evaluated("", trigger).actions
    assert isinstance(action, Copy)
    assert (action.documents[0].text, action.sources) == ("one\n  two\n", ())


def test_triggers_do_not_move_the_numbers_that_are_planned() -> None:
    text = "RUN b\nENV A=1\nCOPY c /\n"
    actions = evaluated(text, "RUN a", "COPY a /").actions
    assert [each.name for each in actions] == ["onbuild-1", "onbuild-2", "run-1", "copy-2"]
    steps = plan.make(recipe(f"FROM base\n{text}"), Recorder()).steps
    assert [step.name for step in steps if step.name in {each.name for each in actions}] == [
        "run-1",
        "copy-2",
    ]


def test_what_two_triggers_read_is_told_from_each_other() -> None:
    actions = evaluated("COPY . /c\n", "COPY . /a", "COPY --exclude=x . /b").actions
    keys = [key for each in actions if isinstance(each, Copy) for _, key in files.names(each)]
    assert keys == ["onbuild-1 .", "onbuild-2 .", "2 ."]


@pytest.mark.parametrize("last", ["onbuild-1", "run-1"])
def test_a_report_has_the_steps_that_were_not_planned(tmp_path: Path, last: str) -> None:
    report = Report(tmp_path / "report.xml", "Dockerfile")
    report(Event("start", 0, {"steps": ["bootstrap", "run-1", "copy-2"]}))
    for name in ("bootstrap", "onbuild-1", "run-1"):
        report(Event("phase", 1, {"name": name, "reason": ""}))
        if name == last:
            break
    report(Event("error", 2, {"status": SectionError.status, "what": "failed", "text": ""}))
    suite = ElementTree.parse(tmp_path / "report.xml").getroot().find("testsuite")
    assert suite is not None
    results = {
        each.get("name"): [child.tag for child in each] for each in suite.findall("testcase")
    }
    assert list(results) == ["bootstrap", "onbuild-1", "run-1", "copy-2"]
    assert [name for name, tags in results.items() if "failure" in tags] == [last]
    assert results["copy-2"] == ["skipped"]
