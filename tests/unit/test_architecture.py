"""The published shape is a test: wings, no circles, who may import whom."""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
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


@functools.cache  # to parse all modules takes seconds
def imports(path: Path, *, lazy: bool) -> frozenset[str]:
    """Modules of ours that a file imports; lazy: also those inside functions and for types only."""
    modules: set[str] = set()
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if lazy else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= {name if name in NAMES.values() else node.module for name in inner}
    return frozenset(name for name in modules if name.startswith(("singbuild", "singrun")))


def published_wings(package: str) -> dict[str, set[str]]:
    """The wings of a package in CONTRIBUTING.md, lowest first, and what each may import."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    match = re.search(rf"^\| `{package}/` \| is \| imports \|\n\|[-|]+\n((\|.*\n)+)", text, re.M)
    assert match, f"CONTRIBUTING.md has no table of the wings of {package}"
    rows = re.findall(r"^\| `([\w/]+?)(?:/|\.py)` \| .+ \| ?([\w. ]*)\|$", match[1], re.M)
    assert len(rows) == match[1].count("\n"), "a row of the table is not understood"
    return {name.replace("/", "."): set(allowed.split()) for name, allowed in rows}


def graph(package: str) -> dict[str, set[str]]:
    """What each module of a package imports of it, names without the package's.

    Left out: the package itself, whose names are loaded when asked for, and ``__main__``.
    """
    start = f"{package}."
    return {
        name.removeprefix(start): {
            imported.removeprefix(start)
            for imported in imports(path, lazy=True) - {name}
            if imported.startswith(start)
        }
        for path, name in NAMES.items()
        if name.startswith(start) and not name.endswith("__main__")
    }


ALONE = """
import gc, importlib, json, os, sys, traceback
gc.disable()  # nothing is garbage here, and a look for it writes to all pages that forks share
tree = json.load(sys.stdin)
names = [name for names in tree.values() for name in names]
for name in names:  # so that the libraries that they need are there, which takes most of the time
    importlib.import_module(name)
for name in [*sys.modules]:
    if name.partition(".")[0] in {name.partition(".")[0] for name in names}:
        del sys.modules[name]

def import_alone(name):
    if not os.fork():
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(all([import_alone(each) for each in tree.get(name, ())]) - 1)
    return os.wait()[1] == 0

sys.exit(all([import_alone(name) for name in tree[""]]) - 1)
"""


def import_tree() -> dict[str, list[str]]:
    """Below each module those of which it is the largest import; below "" those without any."""
    direct = {name: imports(path, lazy=False) & {*NAMES.values()} for path, name in NAMES.items()}
    sizes: dict[str, int] = {}
    tree: dict[str, list[str]] = {}
    for name in TopologicalSorter(direct).static_order():
        if name in IMPORTABLE:
            largest = max(direct[name], key=lambda each: (sizes[each], each), default="")
            tree.setdefault(largest, []).append(name)
        above = {name} | direct[name]
        while more := {each for one in above for each in direct[one]} - above:
            above |= more
        sizes[name] = len(above)
    return tree


def test_every_module_imports_alone_without_warnings() -> None:
    """Nothing of ours is there before a module but the import of its own that needs most.

    A new Python for each is started by tests/long.
    """
    words, tree = [sys.executable, "-W", "error", "-c", ALONE], import_tree()
    assert sorted(name for names in tree.values() for name in names) == sorted(IMPORTABLE)
    done = subprocess.run(words, capture_output=True, text=True, input=json.dumps(tree))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["singbuild", "singrun"])
def test_modules_do_not_import_each_other_in_a_circle(package: str) -> None:
    TopologicalSorter(graph(package)).prepare()


@pytest.mark.parametrize("package", ["singbuild", "singrun"])
def test_a_wing_imports_only_wings_that_its_row_names_which_stand_above(package: str) -> None:
    wings = published_wings(package)
    above: set[str] = set()
    for wing, allowed in wings.items():
        assert allowed <= above, f"{wing} may import {allowed - above}, which stand below it"
        above.add(wing)

    def home(module: str) -> str:
        """The wing of a module: its folder, or itself at the top."""
        return (
            module
            if (ROOT / package / module.replace(".", "/")).is_dir()
            else (module.rpartition(".")[0] or module)
        )

    modules = graph(package)
    assert {home(module) for module in modules} == set(wings)
    for module, imported in modules.items():
        strangers = {home(each) for each in imported} - {home(module)} - wings[home(module)]
        assert not strangers, f"{module} imports {imported}: its row does not name {strangers}"


def test_the_runtime_imports_nothing_of_the_builder() -> None:
    for path in ROOT.glob("singrun/**/*.py"):
        assert not {n for n in imports(path, lazy=True) if n.startswith("singbuild")}


def test_the_builder_imports_of_the_runtime_only_what_the_table_says() -> None:
    names = (
        "syscalls",
        "mounts.loop",
        "mounts.mountinfo",
        "mounts.pivot",
        "images.library",
        "mounts.binds",
        "mounts.root",
        "mounts.rows",
        "hardware.drivers",
        "images.locks",
        "subordinate",
        "images.sif",
        "config",
        "request",
        "errors",
        "signatures.signers",
        "signatures.sshsig",
        "signatures.statement",
        "signatures",
        "verbs.words",
        "environment.assignments",
    )
    allowed = {f"singrun.{name}" for name in names}
    for path in ROOT.glob("singbuild/**/*.py"):
        assert {n for n in imports(path, lazy=True) if n.startswith("singrun")} <= allowed


def test_plugins_import_only_the_public_names() -> None:
    public = {"singbuild", "singbuild.compression", "singbuild.download", "singbuild.command"}
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


def test_importing_singbuild_imports_nothing_else_of_ours_until_a_name_is_asked_for() -> None:
    code = (
        "import sys, singbuild\n"
        "ours = {name for name in sys.modules if name.startswith('sing')}\n"
        "assert ours == {'singbuild'}, ours\n"
        "for name in singbuild.__all__: assert getattr(singbuild, name) is not None\n"
        "assert 'singbuild.tree.rootfs' in sys.modules\n"
        "assert {*singbuild.__all__} <= {*dir(singbuild)}\n"
        "assert not hasattr(singbuild, 'no_such_name')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize("package", ["cli", "singularity"])
def test_a_command_line_loads_no_engine_before_it_knows_what_is_wanted(package: str) -> None:
    code = (
        f"import sys, singbuild.{package}.main\n"
        "print(*{name.split('.')[1] for name in sys.modules if name.startswith('singbuild.')})\n"
    )
    wings = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    own = {"cli": set(), "singularity": {"singularity", "privilege", "workspace"}}[package]
    assert {*wings} <= {"cli", "command", "configuration", "console", "errors"} | own


def test_sending_a_file_loads_nothing_that_builds_writes_or_signs() -> None:
    code = (
        "import sys, singbuild.images.push, singbuild_docker.oras\n"
        "import singbuild.formats.ext3, singbuild.formats.sif\n"
        "print(*sys.modules)\n"
    )
    loaded = {*subprocess.check_output([sys.executable, "-c", code], text=True).split()}
    builder = {f"singbuild.{wing}" for wing in ("cache", "ext3.writer", "plan", "recipe", "tree")}
    assert not loaded & (builder | {"cryptography", "yaml", "singbuild.tar.extract"})
    # These only once the file is being read.
    assert not loaded & {"requests", "singbuild_docker.registry", "singbuild_docker.layers"}


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
