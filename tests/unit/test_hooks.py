"""The hook specifications are a manual: complete, uniform, and kept by every backend."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from singbuild import Rootfs, contract, hookspecs
from singbuild.backends import extension_hookspecs, loading
from singbuild.cli.main import commands
from singbuild.entry_points import code_digest, installed

HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("singbuild_")}
SITE = {n: h for n, h in vars(extension_hookspecs).items() if n.startswith("singbuild_")}
BUILT_IN = [each.name for each in installed(loading.GROUP) if each.distribution == "singbuild"]
HEADINGS = ("When:", "Assume:", "Return:", "Raise:", "Since:")


@pytest.mark.parametrize("name", HOOKS | SITE)
def test_a_hook_answers_the_same_questions_in_the_same_order(name: str) -> None:
    text = inspect.getdoc((HOOKS | SITE)[name]) or ""
    places = [text.find(f"\n{heading}") for heading in HEADINGS]
    assert -1 not in places
    assert places == sorted(places)
    assert int(text[text.rindex("Since:") + 6 :].strip(" .")) <= contract.API_VERSION


def test_hooks_stand_in_the_order_in_which_a_build_calls_them() -> None:
    assert list(HOOKS) == [
        *("singbuild_needs", "singbuild_check", "singbuild_resolve", "singbuild_configuration"),
        *("singbuild_bootstrap", "singbuild_defaults"),
    ]


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_backend_loads_and_says_what_it_needs(name: str) -> None:
    backend = loading.load(name)
    assert backend.name == name
    assert all(keyword.help for keyword in backend.needs.keywords)
    assert all(program.package for program in backend.needs.programs)


def test_built_ins_come_in_by_the_public_door_alone() -> None:
    assert {"busybox", "debootstrap"} <= set(BUILT_IN)
    output = subprocess.check_output([sys.executable, "-m", "singbuild", "backends"], text=True)
    for name in BUILT_IN:
        assert re.search(rf"^{name} ", output, re.M)


@pytest.mark.parametrize("name", BUILT_IN)
def test_one_backend_is_described_for_people(name: str) -> None:
    done = CliRunner().invoke(commands, ["backends", name], standalone_mode=False)
    assert (done.exception, done.return_value) == (None, 0)
    for keyword in loading.load(name).needs.keywords:
        assert keyword.name in done.output


PAGE = (Path(__file__).parents[2] / "docs/writing-a-backend.md").read_text()


def test_the_page_for_authors_has_every_hook_with_its_exact_arguments() -> None:
    sections = dict(re.findall(r"^### `(singbuild_\w+)\((.*?)\)`$", PAGE, re.M))
    exact = {
        name: ", ".join(inspect.signature(hook).parameters) for name, hook in (HOOKS | SITE).items()
    }
    assert list(sections.items()) == list(exact.items())


def test_the_page_for_authors_names_every_value_that_passes() -> None:
    for kind in (
        contract.Source,
        contract.Needs,
        contract.Defaults,
        contract.Build,
        contract.Finished,
    ):
        for field in dataclasses.fields(kind):
            assert field.name in PAGE, f"{kind.__name__}.{field.name}"
    public = [name for name, each in vars(Rootfs).items() if callable(each) and name[0] != "_"]
    assert [name for name in public if f"{name}(" not in PAGE] == []


def test_the_pages_examples_are_python() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert len(blocks) > 3
    for block in blocks:
        compile(block, "docs/writing-a-backend.md", "exec")


def test_a_plugins_code_is_all_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "singbuild_lab"
    package.mkdir()
    for name in ("__init__.py", "backend.py", "solver.py"):
        (package / name).write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    before = code_digest("singbuild_lab.backend")
    (package / "solver.py").write_text("changed = True\n")
    assert code_digest("singbuild_lab.backend") != before
