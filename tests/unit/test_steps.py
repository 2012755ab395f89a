"""What decides whether a snapshot or a failed build's tree is taken, and which stages are built."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from singbuild.cache.filling import Place, TreePlan, facts_before, plan_tree
from singbuild.dockerfile import loading
from singbuild.plan import lock, plan
from singbuild.plan.job import Job, resolve
from singbuild.plan.options import Options
from singbuild.recipe.grammar import parse
from singbuild.recipe.text import Text
from singbuild.stages import Stages
from singbuild.steps import definition, dockerfile
from singbuild.steps.step import TreeStep
from singbuild.testing.engine import Recorder
from singbuild.workshop import Workshop


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with files whose names are those of facts."""
    for name in ("COPY", "RUN", "privilege", "%files", "app one", "stage one"):
        (tmp_path / name).write_text("before")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    return tmp_path


def planned(text: str, *, one_owner: bool = False) -> TreePlan:
    """How the tree of a Dockerfile of one stage is filled. Nothing is fetched."""
    Path("Dockerfile").write_text(text)
    recipe = loading.load("Dockerfile")
    job = resolve(plan.make(recipe, Recorder()), Options(), lambda _: Path("cache"))
    place = Place(one_owner=one_owner, may_overlay=False)
    return plan_tree(job, dockerfile.steps(job, {}), place, use_cache=True)


def definition_steps(text: str, stage_key: str = "1") -> tuple[TreeStep, ...]:
    one = plan.make(parse(Text("r.def", text)), Recorder())
    job = Job(one, Options(), one.source, {}, lock.make(one, {}, None))
    return definition.steps(job, {"one": stage_key})


def test_a_file_called_as_its_instruction_does_not_hide_it() -> None:
    plans = [planned(f"FROM scratch\nCOPY COPY {target}\n") for target in ("/a", "/b")]
    assert plans[0].key != plans[1].key


def test_a_comment_changes_no_step() -> None:
    text = "COPY COPY /a\nRUN true\nWORKDIR /w\n"
    assert planned(f"FROM scratch\n{text}").key == planned(f"FROM scratch\n# why\n{text}").key


@pytest.mark.parametrize("one_owner", [False, True])
def test_a_file_called_as_a_fact_counts_with_its_digest(one_owner: bool) -> None:
    text = "FROM scratch\nCOPY privilege COPY /x/\n"
    keys = {planned(text, one_owner=one_owner).key}
    for name in ("privilege", "COPY"):
        Path(name).write_text("after")
        keys.add(planned(text, one_owner=one_owner).key)
    assert len(keys) == 3


STAGES = """Bootstrap: busybox
Stage: one

Bootstrap: busybox
%files
    "stage one" /a
    "app one" /b
    %files /c
%files from one
    /x {target}
%appinstall one
    true
"""


def test_files_of_a_definition_file_count_with_their_digests() -> None:
    def facts(target: str = "/d", stage_key: str = "1") -> dict[str, str]:
        steps = definition_steps(STAGES.format(target=target), stage_key)
        return dict(next(step.facts for step in steps if step.name == "files"))

    before = facts()
    assert before != facts("/e")
    assert before != facts(stage_key="2")
    for name in ("stage one", "app one", "%files"):
        Path(name).write_text("after")
        now = facts()
        assert {fact for fact in before if before[fact] != now[fact]} == {name}
        before = now


def test_what_goes_into_each_of_several_steps_counts() -> None:
    def facts(first: str) -> dict[str, str]:
        text = f'FROM scratch\nRUN ["/{first}"]\nRUN ["/b"]\nRUN ["/c"]\n'
        return facts_before(planned(text), "run-3")

    before, now = facts("a"), facts("other")
    assert {name for name in before if before[name] != now[name]} == {"RUN of run-1"}


@dataclass(frozen=True)
class Counted(TreePlan):
    """A tree whose looks into the cache are counted."""

    looks: list[str] = field(default_factory=list)

    def cached(self) -> str:
        self.looks.append(self.job.stage)
        return super().cached()


def test_each_stage_is_looked_up_once() -> None:
    """Stage n copies from n-1 and n-2."""
    last = planned("FROM scratch\n")
    looks: list[str] = []

    def tree(number: int) -> TreePlan:
        names = tuple(f"{n}" for n in (number - 2, number - 1) if n >= 0)
        step = TreeStep("copy-1", "", {}, lambda _, state: state, stages=names)
        return Counted(last.job, (step,), {}, "", looks=looks)

    count = 18
    stages = Stages(cast("Workshop", None), {f"{n}": tree(n) for n in range(count)})
    needs = stages.needed_by(tree(count))
    assert [*needs] == [f"{n}" for n in range(count)]
    assert needs["5"] == {"3", "4"}
    assert len(looks) == count + 1


def test_a_stage_that_nothing_reads_is_not_looked_up() -> None:
    last = planned("FROM scratch\n")
    looks: list[str] = []
    unused = Counted(last.job, last.steps, {}, "", looks=looks)
    assert [*Stages(cast("Workshop", None), {"a": unused}).needed_by(last)] == []
    assert looks == []
