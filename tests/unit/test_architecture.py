"""The published shape is a test: import order, no circles, who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    [
        *ROOT.glob("singbuild/**/*.py"),
        *ROOT.glob("singrun/**/*.py"),
        *ROOT.glob("plugins/**/*.py"),
    ]
)
NAMES = {
    path: ".".join(path.relative_to(ROOT).with_suffix("").parts)
    .removeprefix("plugins.")
    .removesuffix(".__init__")
    for path in MODULES
}
IMPORTABLE = [name for name in NAMES.values() if not name.endswith("__main__")]


def imports(path: Path, *, lazy: bool) -> set[str]:
    """Modules of ours that a file imports; lazy: also those inside functions and for types only."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if lazy else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in NAMES.values() else node.module for name in inner}
    return {name for name in found if name.split(".")[0] in ("singbuild", "singrun")} | {
        name for name in found if name.startswith("singbuild_")
    }


def published_order(package: str) -> list[str]:
    """The import order that CONTRIBUTING.md publishes for a package, lowest first."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    match = re.search(rf"^{package}: (.*?)$\n\n", text.replace(" \\\n", " "), re.M | re.S)
    assert match, f"CONTRIBUTING.md does not publish the import order of {package}"
    return match[1].split()


@pytest.mark.parametrize("name", IMPORTABLE)
def test_every_module_imports_alone_without_warnings(name: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", f"import {name}"], check=True)


@pytest.mark.parametrize("package", ["singbuild", "singrun"])
def test_a_module_imports_only_what_stands_before_it_in_the_published_order(package: str) -> None:
    order = published_order(package)
    files = {name.removeprefix(f"{package}."): path for path, name in NAMES.items()}
    ours = {name for name in files if NAMES[files[name]] != name} - {"__init__"}
    assert sorted(order) == sorted(ours)
    for place, module in enumerate(order):
        for imported in imports(files[module], lazy=not module.startswith("cli")):
            tail = imported.removeprefix(f"{package}.")
            if tail != imported and tail in ours:
                assert tail in order[:place], f"{module} imports {imported}, which comes later"


def test_the_runtime_imports_nothing_of_the_builder() -> None:
    for path in ROOT.glob("singrun/**/*.py"):
        assert not {n for n in imports(path, lazy=True) if n.startswith("singbuild")}


def test_the_builder_imports_only_the_system_calls_and_the_locks_of_the_runtime() -> None:
    names = ("syscalls", "mounts.loop", "mounts.table", "images.locks", "errors")
    allowed = {f"singrun.{name}" for name in names}
    for path in ROOT.glob("singbuild/**/*.py"):
        assert {n for n in imports(path, lazy=True) if n.startswith("singrun")} <= allowed


def test_plugins_import_only_the_public_names() -> None:
    public = {"singbuild", "singbuild.download", "singbuild.command"}
    for path in ROOT.glob("plugins/**/*.py"):
        own = path.relative_to(ROOT / "plugins").parts[0].removesuffix(".py")
        ours = {n for n in imports(path, lazy=True) if not n.startswith(own)}
        assert ours <= public, path


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["build", "--help"], ["backends"]])
def test_help_and_lists_need_neither_requests_nor_docker_nor_a_plugin(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from singbuild.cli.main import main\n"
        f"sys.argv = ['singbuild', *{words!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'requests', 'docker', 'singbuild_busybox', 'singbuild_debootstrap', 'jinja2'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_newcomers_six_files_stay_under_700_lines() -> None:
    six = (
        "recipes/busybox.def",
        "singbuild/build.py",
        "singbuild/hookspecs.py",
        "plugins/singbuild_busybox.py",
        "docs/image-format.md",
        "singrun/enter.py",
    )
    lines = {name: len((ROOT / name).read_text().splitlines()) for name in six}
    assert sum(lines.values()) < 700, lines
