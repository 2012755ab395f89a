"""Whole Debians, each built on two hosts: the recipes, and pip and a compiler in %post."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.host.build.test_reproducible import lock_and_build_twice, recipes, twice

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.long]


@pytest.mark.parametrize("recipe", recipes("debootstrap"), ids=lambda path: path.stem)
def test_every_recipe_gives_one_image_with_its_lock(recipe: Path, tmp_path: Path) -> None:
    lock_and_build_twice(recipe, tmp_path)


COMPILES = """\
Bootstrap: debootstrap
OSVersion: bookworm
Include: gcc libc6-dev python3-pip python3-dev python3-setuptools python3-wheel
%files
    source /opt/source
%post
    gcc -O2 -g -o /usr/local/bin/hello /opt/source/hello.c
    pip install --break-system-packages --no-index --no-build-isolation /opt/source
    python3 -c "import greeting, json, _greeting"
    useradd -m somebody
%test
    hello | grep -q hello
    python3 -c "import greeting; greeting.hello()"
"""
C_MODULE = """\
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_greeting", NULL, -1, NULL};
PyMODINIT_FUNC PyInit__greeting(void) { return PyModule_Create(&module); }
"""
SETUP = """\
from setuptools import Extension, setup
setup(name="greeting", version="1.0", py_modules=["greeting"],
      ext_modules=[Extension("_greeting", ["_greeting.c"])])
"""


def test_pip_and_a_compiler_in_post(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "hello.c").write_text(
        '#include <stdio.h>\nint main(void) { puts("hello from " __FILE__); return 0; }\n'
    )
    (source / "greeting.py").write_text("def hello():\n    print({'a', 'b', 'c'} and 'hello')\n")
    (source / "_greeting.c").write_text(C_MODULE)
    (source / "setup.py").write_text(SETUP)
    recipe = tmp_path / "compiles.def"
    recipe.write_text(COMPILES)
    twice(str(recipe), tmp_path, "--no-cache")
