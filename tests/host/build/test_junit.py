"""The JUnit report: a case for each section, whatever becomes of the build."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.builds import Build, Builder, killed_in

pytestmark = pytest.mark.root

RECIPE = "Bootstrap: busybox\n%post\n    echo in post\n%test\n    echo in test\n    {last}\n"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The report of a test that has a cache of its own."""
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    return tmp_path / "report.xml"


def cases(path: Path) -> dict[str, ElementTree.Element]:
    """The cases of a report by name; the suite's counts are theirs."""
    suite = ElementTree.parse(path).getroot().find("testsuite")
    assert suite is not None
    outcome = suite.findall("testcase")
    assert suite.get("tests") == str(len(outcome))
    for kind, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert suite.get(count) == str(len(suite.findall(f"testcase/{kind}")))
    assert all(float(case.get("time", "x")) >= 0 for case in outcome)
    return {str(case.get("name")): case for case in outcome}


def result(case: ElementTree.Element) -> str:
    return next((c.tag for c in case if c.tag != "system-out"), "passed")


def results(path: Path) -> dict[str, str]:
    return {name: result(case) for name, case in cases(path).items()}


def test_a_good_build_then_the_same_from_the_cache(
    path: Path, recipe: Callable[[str], Path], singbuild: Build
) -> None:
    good = recipe(RECIPE.format(last="true"))
    assert singbuild("--junit", path, good, "a.img").returncode == 0
    assert results(path) == dict.fromkeys(["bootstrap", "%post", "%test"], "passed")
    case = cases(path)["%test"]
    assert case.get("classname") == "recipe"
    assert "in test" in str(case.findtext("system-out"))
    assert singbuild("--junit", path, good, "b.img").returncode == 0
    assert results(path) == dict.fromkeys(["bootstrap", "%post", "%test"], "skipped")
    other = singbuild("--junit", path, "--notest", "--no-cache", good, "c.img")
    assert other.returncode == 0
    assert results(path) == dict.fromkeys(["bootstrap", "%post"], "passed")


def test_a_failing_test_is_a_failure_with_its_output(
    path: Path, recipe: Callable[[str], Path], singbuild: Build
) -> None:
    hostile = r"printf ']]>&<\033[1m\001\377\n'; false"
    done = singbuild("--junit", path, recipe(RECIPE.format(last=hostile)), "a.img")
    assert done.returncode == 7
    assert results(path) == {"bootstrap": "passed", "%post": "passed", "%test": "failure"}
    failure = cases(path)["%test"].find("failure")
    assert failure is not None
    assert "recipe.def:6: %test failed with status 1" in failure.get("message", "")
    assert "in test\n" in str(failure.text)
    assert "]]>&<" in str(cases(path)["%test"].findtext("system-out"))


def test_what_comes_after_a_failure_is_skipped(
    path: Path, recipe: Callable[[str], Path], singbuild: Build
) -> None:
    text = RECIPE.format(last="true").replace("echo in post", "false")
    assert singbuild("--junit", path, recipe(text), "a.img").returncode == 7
    assert results(path) == {"bootstrap": "passed", "%post": "failure", "%test": "skipped"}


def test_another_trouble_is_an_error_where_it_came(
    path: Path, recipe: Callable[[str], Path], singbuild: Build
) -> None:
    wrong = recipe("Bootstrap: busybox\nMirrorURL: /bin/busybox\nSHA256: " + "0" * 64 + "\n")
    assert singbuild("--junit", path, wrong, "a.img").returncode == 6
    assert "error" in results(path).values()
    assert singbuild("--junit", path, recipe("Bootstrap: busybox\n%postt\n"), "a.img").returncode
    assert results(path) == {"build": "error"}
    assert singbuild("--junit", path, recipe("Bootstrap: busybox\n"), "/none/a").returncode == 8
    assert results(path) == {"build": "error"}


def test_a_killed_build_is_no_success(
    path: Path, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path, builder: Builder
) -> None:
    path.write_text("of an earlier build")
    slow = recipe(RECIPE.format(last="true").replace("echo in post", "sleep 60"))
    words: list[str | Path] = ["--junit", path, slow, "a.img"]
    for number in (signal.SIGKILL, signal.SIGTERM):
        killed_in("post", number, words, tmp_path, builder=builder)
        assert results(path) == {"build": "error"}
    assert builder.run_killing_worker("--junit", path, slow, "a.img", cwd=tmp_path).returncode == 5
    error = cases(path)["build"].find("error")
    assert error is not None
    assert "the build was killed" in error.get("message", "")


def test_a_report_that_cannot_be_written_is_told_before_anything_is_built(
    recipe: Callable[[str], Path], singbuild: Build, nothing_left: Callable[[], None]
) -> None:
    done = singbuild("--junit", "/none/report.xml", recipe("Bootstrap: busybox\n"), "a.img")
    assert done.returncode == 2
    assert "--junit /none/report.xml: No such file or directory" in done.stderr
    nothing_left()


def test_names_that_are_no_text(path: Path, singbuild: Build, tmp_path: Path) -> None:
    name = tmp_path / b"a\xff\x01b.def".decode(errors="surrogateescape")
    name.write_text("Bootstrap: busybox\n")
    assert singbuild("--junit", path, name, "a.img").returncode == 0
    assert results(path) == {"bootstrap": "passed"}


def test_what_came_from_the_cache_before_a_failure_is_not_called_unreached(
    path: Path, recipe: Callable[[str], Path], singbuild: Build
) -> None:
    assert singbuild(recipe(RECIPE.format(last="true")), "a.img").returncode == 0
    assert singbuild("--junit", path, recipe(RECIPE.format(last="false")), "b.img").returncode == 7
    outcome = cases(path)
    for name in ("bootstrap", "%post"):
        skipped = outcome[name].find("skipped")
        assert skipped is not None
        assert "taken from the cache" in str(skipped.get("message"))
    assert result(outcome["%test"]) == "failure"
