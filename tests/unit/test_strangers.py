"""Other people's plugins: broken ones are named with their distribution and hurt nobody else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pluggy
import pytest

from singbuild import contract
from singbuild.backends import loading

Install = Callable[..., None]
HEAD = """
from singbuild import Defaults, Keyword, Needs, Program, hookimpl
@hookimpl
def singbuild_needs(): return Needs()
@hookimpl
def singbuild_resolve(): return {"version": 1}
@hookimpl
def singbuild_bootstrap(rootfs): return True
"""
BROKEN = {
    "raises": ("raise RuntimeError('not today')", "RuntimeError: not today"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "missing": ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
    "syntax": ("def broken(:", "stranger_syntax.py, line 1: def broken(:"),
    "signature": (
        HEAD + "@hookimpl\ndef singbuild_defaults(source, tree): return None\n",
        "Argument(s) {'tree'} are declared in the hookimpl but can not be found in the hookspec",
    ),
    "misspelt": (
        HEAD + "@hookimpl\ndef singbuild_bootstap(): pass\n",
        "Did you mean singbuild_bootstrap?",
    ),
    "unmarked": (HEAD.replace("@hookimpl\ndef singbuild_r", "def singbuild_r"), "no singbuild_res"),
    "later": (HEAD + "singbuild_contract = 2\n", "needs version 2 of the contract, this is 1"),
    "needs": (HEAD.replace("return Needs()", "return ['dnf']"), "returned ['dnf'], not Needs"),
    "words": (HEAD.replace("Needs()", "Needs(keywords=('URL',))"), "'URL', not a Keyword"),
    "asks": (HEAD.replace("return Needs()", "raise KeyError('x')"), "KeyError: 'x'"),
}
FAILING = {
    "pins": (HEAD.replace('{"version": 1}', "7"), "it returned 7, not pins"),
    "objects": (HEAD.replace('{"version": 1}', '{"a": object()}'), "singbuild_resolve"),
    "bug": (HEAD.replace('return {"version": 1}', "return 1 / 0"), "ZeroDivisionError"),
}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution of one module, as pip would, for this test alone."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(site))

    def put(name: str, text: str, backend: str = "") -> None:
        module = f"stranger_{name}"
        (site / f"{module}.py").write_text(text)
        about = site / f"stranger_{name}-4.2.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: stranger-{name}\nVersion: 4.2\n"
        )
        (about / "entry_points.txt").write_text(
            f"[singbuild.bootstrap]\n{backend or name} = {module}\n"
        )

    return put


def singbuild(tmp_path: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "singbuild", *words],
        cwd=tmp_path,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )


def plan(tmp_path: Path, backend: str, **env: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / f"{backend}.def").write_text(f"Bootstrap: {backend}\n")
    return singbuild(tmp_path, "plan", f"{backend}.def", **env)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_named_with_its_distribution(
    name: str, install: Install, tmp_path: Path
) -> None:
    text, says = BROKEN[name]
    install(name, text)
    done = plan(tmp_path, name)
    assert done.returncode == 4, done.stderr
    assert says in done.stderr
    assert f"backend {name!r}" in done.stderr
    assert f"stranger-{name} 4.2" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", FAILING)
def test_a_plugin_that_answers_nonsense_is_named(
    name: str, install: Install, tmp_path: Path
) -> None:
    text, says = FAILING[name]
    install(name, text)
    (tmp_path / "a.def").write_text(f"Bootstrap: {name}\n")
    done = singbuild(tmp_path, "lock", "a.def")
    assert done.returncode == 4, done.stderr
    assert says in done.stderr
    assert f"bug in stranger-{name} 4.2, not in your recipe" in done.stderr
    assert not (tmp_path / "a.lock.yaml").exists()


def test_a_plugin_that_hangs_at_import_is_given_up(install: Install, tmp_path: Path) -> None:
    install("hangs", "import time\ntime.sleep(60)\n")
    done = plan(tmp_path, "hangs", SINGBUILD_PLUGIN_TIMEOUT="0.5")
    assert done.returncode == 4
    assert "'hangs' is still being imported after 0.5 s" in done.stderr
    assert "stranger-hangs 4.2" in done.stderr


@pytest.mark.parametrize("seconds", ["soon", "nan", "-1", "0"])
def test_a_limit_of_seconds_that_is_none_is_no_plugins_fault(
    seconds: str, install: Install, tmp_path: Path
) -> None:
    install("good", HEAD)
    done = plan(tmp_path, "good", SINGBUILD_PLUGIN_TIMEOUT=seconds)
    assert done.returncode == 2, done.stderr
    assert f"SINGBUILD_PLUGIN_TIMEOUT is {seconds!r}" in done.stderr
    assert "stranger-good" not in done.stderr


def test_a_taken_name_is_refused_with_both_owners(install: Install, tmp_path: Path) -> None:
    install("thief", HEAD, backend="busybox")
    done = plan(tmp_path, "busybox")
    assert done.returncode == 4
    assert "'busybox' is claimed by singbuild" in done.stderr
    assert "stranger-thief 4.2" in done.stderr


def test_a_failure_is_shown_with_its_line_and_logged_with_its_traceback(
    install: Install, tmp_path: Path
) -> None:
    install("bug", FAILING["bug"][0])
    (tmp_path / "a.def").write_text("Bootstrap: bug\n")
    done = singbuild(tmp_path, "a.def", "a.img")
    assert done.returncode == 4
    assert re.search(r"stranger_bug\.py, line \d+, in singbuild_resolve: .*1 / 0", done.stderr)
    log = Path(done.stderr.rpartition("The full log: ")[2].strip())
    text = log.read_text()
    log.unlink()
    assert "Traceback (most recent call last)" in text
    assert text.count("ZeroDivisionError") >= 2


def test_none_of_them_breaks_what_does_not_use_it(install: Install, tmp_path: Path) -> None:
    for name, (text, _) in (BROKEN | FAILING).items():
        install(name, text)
    install("hangs", "import time\ntime.sleep(600)\n")
    install("thief", HEAD, backend="debootstrap")
    listed = singbuild(tmp_path, "backends")
    assert listed.returncode == 0
    assert re.search(r"^hangs +\S*\n +from stranger-hangs 4.2$", listed.stdout, re.M)
    assert plan(tmp_path, "busybox").returncode == 0
    (tmp_path / "b.def").write_text("Bootstrap: busybox\n")
    done = singbuild(tmp_path, "lock", "b.def")
    assert done.returncode == 0, done.stderr


def test_an_old_plugin_that_takes_less_still_works(install: Install, tmp_path: Path) -> None:
    """The contract grows by addition: an implementation takes the arguments that it knows."""
    install("old", HEAD + f"singbuild_contract = {contract.API_VERSION}\n")
    (tmp_path / "a.def").write_text("Bootstrap: old\n")
    assert singbuild(tmp_path, "lock", "a.def").returncode == 0


NEXT = pluggy.HookspecMarker("singbuild")


class NextContract:
    """The contract as it might be one day: resolve gets ``inputs``, ``source`` goes away."""

    @NEXT(firstresult=True)
    def singbuild_needs(self) -> None: ...

    @NEXT(
        firstresult=True,
        warn_on_impl_args={"source": DeprecationWarning("source is now inputs; see version 2")},
    )
    def singbuild_resolve(self, source: object, inputs: object) -> None: ...

    @NEXT(firstresult=True)
    def singbuild_bootstrap(self, source: object, pins: object, rootfs: object) -> None: ...


def test_what_a_deprecated_argument_looks_like(install: Install) -> None:
    """An old plugin works on, and its user is told whom to tell."""
    install("yesterday", HEAD.replace("singbuild_resolve()", "singbuild_resolve(source)"))
    install("today", HEAD.replace("singbuild_resolve()", "singbuild_resolve(inputs)"))
    old = loading.load("yesterday", NextContract)
    assert old.call("singbuild_resolve", source=1, inputs=2) == {"version": 1}
    assert old.deprecations == (
        "backend 'yesterday' (stranger-yesterday 4.2): source is now inputs; see version 2",
    )
    assert loading.load("today", NextContract).deprecations == ()
