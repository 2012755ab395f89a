"""Who builds, in each privilege mode; and the tests of builds, for all of them.

    mode        who builds
    root        root with all rights, as all tests do that do not say otherwise
    subuid      a user with subordinate ids
    one-id      a user without
    chroot      root who may not mount
    container   the same in a real container of Podman's

A module that imports ``builder`` and ``tmp_path`` has its tests run once in each mode but root's.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import pwd
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.bench import container_engines
from tests.bench import singrun_images as images
from tests.bench.builds import DIRECTORIES, Builder
from tests.bench.host import shared_directory

MODES = ("subuid", "one-id", "chroot", "container")
NO_MOUNTS = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")


@contextlib.contextmanager
def builder_of(mode: str) -> Iterator[Builder]:
    """Somebody whose builds take a mode, for the time of a with-block; the doctor must say so."""
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        directory = stack.enter_context(shared_directory())
        result = Builder(mode, directory)
        if mode == "container":
            within = stack.enter_context(container_engines.container_of_this_host())
            result.container = within(
                "--interactive", "--env-host", f"--volume={directory}:{directory}"
            )
        elif mode == "chroot":
            result.become = NO_MOUNTS
        else:
            name = stack.enter_context(images.ordinary_user("builder"))
            if mode == "one-id":
                images.without_subordinate_ids(name)
            entry = pwd.getpwnam(name)
            result.uid, result.gid = entry.pw_uid, entry.pw_gid
            become = ("setpriv", f"--reuid={result.uid}", f"--regid={result.gid}", "--init-groups")
            result.become = (*become, "env", f"HOME={directory}")
        for variable in DIRECTORIES:
            patch.setenv(variable, str(result.own_directory(variable.lower())))
        word = "chroot" if mode == "container" else mode
        doctor = result.start("doctor", cwd=directory, stdout=subprocess.PIPE, text=True)
        assert f"in the mode {word}:" in doctor.communicate()[0]
        yield result


@pytest.fixture(
    scope="module",
    params=[pytest.param(mode, marks=pytest.mark.xdist_group(f"mode {mode}")) for mode in MODES],
)
def builder(request: pytest.FixtureRequest) -> Iterator[Builder]:
    """Who builds; caches, logs and scratch are theirs."""
    with builder_of(request.param) as result:
        yield result


@pytest.fixture
def tmp_path(builder: Builder) -> Path:
    """A directory of the builder's."""
    return builder.own_directory(f"test-{next(COUNT)}")


COUNT = itertools.count()


def builds_of(*modules: ModuleType, only: str = "", without: str = "") -> dict[str, Any]:
    """Return the tests of modules that build, with their fixtures, by name.

    only, without: regular expressions of names; "" names none. Those that say why they need root
    itself, and those of an account of their own, are left out.
    """
    result: dict[str, Any] = {}
    for module in modules:
        for name, thing in vars(module).items():
            is_meant = re.match(only, name) and not (without and re.match(without, name))
            if _is_fixture(thing, module) or (is_meant and _builds(name, thing)):
                assert name not in result
                result[name] = thing
    return result


def _is_fixture(thing: object, module: ModuleType) -> bool:
    return isinstance(thing, type(builder)) and thing.__module__ == module.__name__


def _builds(name: str, thing: Any) -> bool:
    if not name.startswith("test_"):
        return False
    marks = {mark.name for mark in getattr(thing, "pytestmark", ())}
    by_a_builder = {"singbuild", "builder", "built"} & {*inspect.signature(thing).parameters}
    return bool(by_a_builder) and "root_itself" not in marks
