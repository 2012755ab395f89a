"""Apps of a recipe, in SCIF's layout; %pre and %startscript in the image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.builds import Build, Builder
from tests.host.build.test_build import cat
from tests.host.build.test_own_directory import singrun

pytestmark = pytest.mark.root

RECIPE = """\
Bootstrap: busybox
%pre
    echo pre > from-pre.txt
%files
    from-pre.txt /
%environment
    export COMMON=1
%post
    mkdir -p /opt
%appinstall foo
    echo "$SCIF_APPNAME in $PWD" > installed
    printf '#!/bin/sh\\necho tool\\n' > bin/footool
    chmod +x bin/footool
%appfiles foo
    data.txt
    data.txt sub/other.txt
%appenv foo
    export FOO="of foo"
%apprun foo
    echo "foo: $FOO $COMMON $SCIF_APPNAME $*"
    footool
%apptest foo
    test -n "$FOO"
%apphelp foo
    Help of foo.
%applabels foo
    Version 1
%apprun bar
    echo bar
%startscript
    exec sleep 60
"""


@pytest.fixture(scope="module")
def built(builder: Builder) -> Path:
    directory = builder.own_directory("apps")
    (directory / "data.txt").write_text("data")
    (directory / "apps.def").write_text(RECIPE)
    builder.run("apps.def", "apps.img", cwd=directory, check=True)
    return directory / "apps.img"


def test_sections_of_apps_did_their_work(built: Path) -> None:
    home = "/scif/apps/foo"
    assert cat(built, f"{home}/installed") == "foo in /scif/apps/foo\n"
    assert cat(built, f"{home}/data.txt") == "data"
    assert cat(built, f"{home}/sub/other.txt") == "data"
    assert cat(built, f"{home}/scif/runscript.help") == "    Help of foo.\n"
    assert json.loads(cat(built, f"{home}/scif/labels.json")) == {"Version": "1"}
    assert "%appinstall foo\n" in cat(built, f"{home}/scif/Singularity")
    assert singrun("exec", built, "ls", "/scif/data/foo") == "input\noutput\n"


def test_pre_comes_before_all_and_startscript_is_kept(built: Path) -> None:
    assert cat(built, "/from-pre.txt") == "pre\n"
    assert cat(built, "/.singularity.d/startscript") == "#!/bin/sh\n    exec sleep 60\n"


@pytest.mark.parametrize("name", ["SINGULARITY_APPNAME"])
def test_an_app_is_run_in_its_environment(name: str, built: Path) -> None:
    assert singrun("run", built, "a", **{name: "foo"}) == "foo: of foo 1 foo a\ntool\n"
    assert singrun("run", built, **{name: "bar"}) == "bar\n"
    assert singrun("test", built, **{name: "foo"}) == ""
    assert "The app bar has no %apptest" in singrun("test", built, **{name: "bar"})
    assert singrun("exec", built, "sh", "-c", "echo $SCIF_APPDATA_foo $FOO") == "/scif/data/foo\n"


def test_a_failing_appinstall_names_its_line(
    recipe: Callable[[str], Path], singbuild: Build
) -> None:
    text = "Bootstrap: busybox\n%appinstall foo\n    true\n    ls /no-such\n"
    done = singbuild(recipe(text), "a.img")
    assert done.returncode == 7
    assert "recipe.def:4: %appinstall failed with status 1" in done.stderr


@pytest.mark.parametrize("install", ["%appinstall foo\n    touch it\n", ""])
def test_apps_of_a_stage_are_copied_with_their_programs(
    install: str, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    """As hpccm writes them for several stages."""
    head = f"Bootstrap: busybox\nStage: devel\n{install}%appenv foo\n    export FOO=1\n"
    tail = "Bootstrap: busybox\n%files from devel\n    /scif\n"
    for word in ("first", "second"):  # what changed is not taken from the cache
        text = f"{head}%apprun foo\n    echo {word} $FOO\n{tail}"
        done = singbuild("build", "-F", recipe(text), "a.img")
        assert done.returncode == 0, done.stderr
        assert singrun("run", "--app", "foo", tmp_path / "a.img") == f"{word} 1\n"
