"""What is planned of recipes as Singularity and Apptainer take them, and what is said of them."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from singbuild.errors import BackendError, RecipeError
from singbuild.plan.plan import Plan, make
from singbuild.recipe.grammar import parse
from singbuild.recipe.text import Text
from singbuild.testing.engine import Recorder
from tests.bench.builds import Build

HEAD = "Bootstrap: busybox\n"


def planned(text: str) -> tuple[Plan, str]:
    """Plan a recipe; return the plan and what was said."""
    report = Recorder()
    return make(parse(Text("r.def", text)), report), "\n".join(report.warnings)


def refused(text: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        planned(text)
    return caught.value


def test_the_only_stage_may_have_a_name() -> None:
    plan, warnings = planned(HEAD + "Stage: spython-base\n%post\n    true\n")
    assert "Stage" not in plan.source.keywords
    assert not warnings


@pytest.mark.parametrize(
    ("first", "program"),
    [("#!/bin/csh", "csh"), ("#!/usr/bin/env fish", "fish"), ("#!/usr/bin/make -f", "make")],
)
def test_an_interpreter_that_may_not_stop_is_told_of(first: str, program: str) -> None:
    _, warnings = planned(f"{HEAD}%post\n{first}\nfalse\n")
    assert f"r.def:2: %post is read by {program}, which may go on behind a command" in warnings


@pytest.mark.parametrize("first", ["#!/usr/bin/env bash", "#!/usr/bin/python3", "#!/bin/zsh -x"])
def test_an_interpreter_that_stops_is_not(first: str) -> None:
    assert planned(f"{HEAD}%post\n{first}\nfalse\n")[1] == ""


def test_empty_keys_and_those_of_other_agents_are_told_of() -> None:
    text = "Bootstrap: docker\nFrom: debian\nNamespace:\nInclude: vim\nOSVersion: x\n"
    plan, warnings = planned(text)
    assert plan.source.keywords["From"] == "debian"
    assert not {"Namespace", "Include", "OSVersion"} & plan.source.keywords.keys()
    assert "r.def:3: Namespace has no value, and no effect" in warnings
    assert "r.def:4: Include has no effect: docker has no such key" in warnings
    assert "r.def:5: OSVersion has no effect: docker has no such key" in warnings


def test_a_key_that_must_have_a_value() -> None:
    assert "needs the keyword From" in refused("Bootstrap: docker\nFrom:\n").what


def test_what_the_recipe_warns_of_is_said() -> None:
    assert "r.def:3: the label A has no value" in planned(HEAD + "%labels\nA\n")[1]


def test_pre_comes_before_the_backend_and_apps_after_post() -> None:
    plan, _ = planned(HEAD + "%appinstall a\nmake\n%appfiles a\nx\n%pre\ntrue\n")
    names = [step.name for step in plan.steps]
    assert names[names.index("pre") + 1] == "bootstrap"
    assert names[names.index("files") + 1] == "appinstall"
    assert plan.reason("appinstall") == "%appinstall at line 2: in the image, as root"
    assert plan.reason("files") == "%appfiles at line 4: copied from the host"


@pytest.mark.parametrize("value", ["ubuntu:$VERSION", "ubuntu:${VERSION}", "ubuntu:{{ VERSION }}"])
def test_a_variable_in_from_is_refused_by_plan(value: str) -> None:
    error = refused(f"Bootstrap: docker\nFrom: {value}\n")
    assert (error.line, error.column) == (2, 7)
    assert "is not filled in" in error.what


def test_a_name_that_no_image_can_have() -> None:
    assert "is no name of an image" in refused("Bootstrap: docker\nFrom: My Image\n").what


@pytest.mark.parametrize("agent", ["yum", "dnf", "zypper"])
def test_packages_that_nobody_checks_are_refused_by_plan(agent: str) -> None:
    text = (
        f"Bootstrap: {agent}\nOSVersion: 7\nMirrorURL: http://mirror.test/centos-%{{OSVERSION}}/\n"
    )
    error = refused(text)
    assert "names no key" in error.what
    assert "/etc/pki/rpm-gpg/RPM-GPG-KEY-CentOS-7." in error.remedy
    planned(text + "GPGCheck: no\n")
    planned(text + "GPGKey: http://mirror.test/key\n")  # a lock may have its digest


@pytest.mark.parametrize(
    ("agent", "remedy"),
    [("self", "singbuild import"), ("Self", "singbuild import")],
)
def test_an_agent_without_backend_is_refused_with_advice(agent: str, remedy: str) -> None:
    error = refused(f"Bootstrap: {agent}\n")
    assert error.what == f"r.def:1:12: there is no backend {agent}"
    assert remedy in error.remedy


def test_keys_of_a_suite_that_the_host_lacks(tmp_path: Path) -> None:
    if not Path("/usr/share/debootstrap/scripts").is_dir():
        pytest.skip("needs debootstrap")
    text = f"Bootstrap: debootstrap\nOSVersion: stable\nKeyring: {tmp_path}/none.gpg\n"
    assert refused(text).line == 3


def test_the_command_warns_of_what_this_host_lacks(
    singbuild: Build, recipe: Callable[[str], Path]
) -> None:
    done = singbuild("plan", recipe(f"{HEAD}%files\n    no-such-file\n"))
    assert done.returncode == 0
    assert "recipe.def:3: %files: no-such-file does not exist" in done.stderr
    text = "Bootstrap: dnf\nOSVersion: 7\nMirrorURL: http://mirror.test/\nGPGCheck: no\n"
    done = singbuild("plan", recipe(text), env={**os.environ, "PATH": "/no/such/directory"})
    assert done.returncode == 0
    assert "this host lacks dnf, rpmkeys, unshare\n" in done.stderr
    assert "apt-get install dnf rpm util-linux\n" in done.stderr


def test_a_backend_that_is_not_there_is_named_with_its_line() -> None:
    with pytest.raises(BackendError) as caught:
        planned("# of a friend\nBootstrap: Docker\nFrom: debian\n")
    assert caught.value.what.startswith("r.def:2: no backend named 'Docker' is installed")
    assert f"install the plugin that has it where singbuild is: {sys.prefix}" in str(caught.value)
    assert "did you mean 'docker'?" in caught.value.what


def test_quotes_in_the_name_of_an_image_are_told_of() -> None:
    error = refused('Bootstrap: docker\nFrom: ubuntu:"22.04"\n')
    assert error.why == "'\"22.04\"' is no tag"
    assert error.remedy == "Quotes are part of a value, here and in %arguments: leave them out."
