"""The runtime's start-up is its performance: what it imports, and how it is found."""

from __future__ import annotations

import marshal
import os
import re
import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import singbuild
import singrun
from singrun import compilation
from tests.bench import installation
from tests.bench import singrun_images as images
from tests.bench.host import shared_directory

# Of ctypes only its core; gc and marshal are part of the interpreter, and cost nothing.
ALLOWED = "os, sys, _ctypes, fcntl, pwd, grp, errno, gc, marshal"


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    with shared_directory() as directory:
        yield images.fill(directory / "tree")


@pytest.fixture(scope="module")
def main() -> Iterator[Path]:
    """The runtime's __main__.py where no file has its modules together: importlib tells of each."""
    with shared_directory() as directory:
        images.installed(directory)
        yield directory / "singrun/__main__.py"


def imported(*words: str | Path) -> set[str]:
    """Names of the modules that an interpreter of the runtime's kind imports."""
    command = [images.PYTHON, "-IS", "-B", "-X", "importtime", *words]  # -B: writes no such file
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "encodings" in modules
    return modules


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-p", "-i"],
        ["-c", "-e", "--hostname", "x"],
        ["-B", "/etc:/data:ro", "-S", "/scratch"],
        ["--writable-tmpfs", "--env", "A=b"],
        ["-w"],
    ],
)
def test_a_launch_imports_few_modules_and_its_own(
    main: Path, tree: Path, options: list[str]
) -> None:
    allowed = imported("-c", f"import {ALLOWED}")
    launched = imported(main, "exec", *options, tree, "true")
    assert "singrun.enter" in launched
    assert {name for name in launched - allowed if name.split(".")[0] != "singrun"} == set()


def test_an_image_launch_imports_no_more(main: Path, tree: Path) -> None:
    """By loop and, once it is unpacked, from the cache."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    image = images.ext3(tree, tree.parent / "image.img")
    allowed = imported("-c", f"import {ALLOWED}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINGRUN_CACHEDIR", str(tree.parent / "cache"))
        for way in ("loop", "fuse2fs", "unpack"):
            words = ("exec", "--mount-with", way, image, "true")
            subprocess.run([images.PYTHON, "-IS", "-B", main, *words], check=True)
            launched = imported(main, *words)
            assert not {n for n in launched - allowed if n.split(".")[0] != "singrun"}, way


def test_the_modules_come_together_and_a_changed_source_is_noticed(tmp_path: Path) -> None:
    launcher = images.installed(tmp_path)
    assert says_version(launcher)  # writes the one file
    (code,) = (tmp_path / "singrun/__pycache__").glob("*.code")
    loaded = subprocess.run(
        [images.PYTHON, "-IS", "-v", str(tmp_path / "singrun/__main__.py"), "--version"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert not re.search("import 'singrun.cli'", loaded)
    cli = tmp_path / "singrun/cli.py"
    cli.write_text(cli.read_text().replace('f"singrun {__version__}', 'f"changed {__version__}'))
    for _ in range(2):
        done = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("changed ")
    code.write_bytes(b"garbage")
    cli.write_text(cli.read_text().replace("changed", "mended"))
    done = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mended ")


LIGHT = """
import sys
sys.path.append(sys.argv.pop(1))
from singrun import light_os
import os
light = type(os.environ).__mro__[1] is light_os.MutableMapping
assert light == (sys.argv.pop(1) == "light"), light
os.environ["A"] = "1"
assert os.environ["A"] == os.environ.get("A") == os.getenv("A") == "1"
assert ("A" in os.environ, "B" in os.environ, os.environ.get("B", "2")) == (True, False, "2")
assert os.environ.keys() & {"A", "B"} == {"A"}
assert dict(os.environ) == {**os.environ} == dict(os.environ.items()) == os.environ.copy()
assert list(os.environ.values()) == [os.environ[name] for name in os.environ]
assert os.environ == dict(os.environ) and os.environ != {}
assert (os.environ | {"B": "2"})["B"] == ({"B": "2"} | os.environ)["B"] == "2"
os.environ.update({"C": "3"}, D="4")
os.environ |= {"E": "5"}
assert [os.environ.pop(name) for name in "CDE"] == ["3", "4", "5"]
assert os.environ.setdefault("F", "6") == os.environ.pop("F") == "6"
assert os.environ.pop("F", None) is None
for wrong in (lambda: os.environ["F"], lambda: os.environ.pop("F")):
    try:
        wrong()
    except KeyError:
        continue
    raise AssertionError
import collections.abc, pathlib, subprocess
assert isinstance({}, collections.abc.MutableMapping)
assert isinstance(pathlib.PurePath("/"), os.PathLike) and not isinstance("/", os.PathLike)
assert subprocess.check_output(["sh", "-c", "echo $A"]) == b"1\\n"
os.environ.clear()
assert not os.environ
"""


@pytest.mark.parametrize("kind", ["light", "real"])
def test_a_light_os_is_as_the_real_one(kind: str) -> None:
    code = ("import os\n" if kind == "real" else "") + LIGHT
    words: list[str | Path] = [images.PYTHON, "-ISc", code, images.ROOT, kind]
    subprocess.run(words, check=True, env={"PATH": "/usr/bin:/bin"})


def test_everything_is_imported_before_anything_is_done(main: Path, tree: Path) -> None:
    """After the pivot the host's files are gone: no module may be looked for any more."""
    command = [images.PYTHON, "-ISB", "-v", str(main), "exec", "-d", str(tree), "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = done.stderr.rpartition("singrun: bind mounts ")[2]
    assert "group" in after
    assert not re.search(r"^import '", after, re.MULTILINE)


def test_the_one_file_has_what_every_launch_imports_in_an_order_that_needs_no_search(
    main: Path, tree: Path, tmp_path: Path
) -> None:
    launcher = images.installed(tmp_path)
    assert says_version(launcher)
    (file,) = (tmp_path / "singrun/__pycache__").glob("*.code")
    (others,) = (tmp_path / "singrun/__pycache__").glob("*.others")
    extension, together = marshal.loads(file.read_bytes())
    assert os.path.basename(extension).startswith("_ctypes.")
    names = {name.removesuffix(".py").removesuffix("/__init__") for name in together}
    launched = imported(main, "exec", tree, "true")
    own = {
        name.removeprefix("singrun.").replace(".", "/") for name in launched if "singrun." in name
    }
    assert names == own - {"compilation"} | {"__init__", "bytecode", "light_os"}
    assert {*marshal.loads(others.read_bytes())} == {*compilation.SOMETIMES}
    assert not {name for name in imported(tmp_path / main.relative_to(main.parents[1]), "--version")
                if name.startswith("singrun.")}  # fmt: skip


def test_ctypes_of_another_python_is_not_taken(tmp_path: Path) -> None:
    launcher = images.installed(tmp_path)
    assert says_version(launcher)
    (file,) = (tmp_path / "singrun/__pycache__").glob("*.code")
    extension, codes = marshal.loads(file.read_bytes())
    main = str(tmp_path / "singrun/__main__.py")
    missing = f"{os.path.dirname(extension)}/_ctypes.no.so"
    for path in (str(shutil.copy(extension, tmp_path)), missing, ""):
        file.write_bytes(marshal.dumps((path, codes)))
        words = [images.PYTHON, "-IS", "-v", main, "--version"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert f"loaded from '{extension}'" in done.stderr


@pytest.mark.parametrize("content", [b"", b"garbage", marshal.dumps(1), marshal.dumps(("", {}))])
def test_files_of_compiled_code_that_are_damaged_or_of_others_are_written_anew(
    tmp_path: Path, content: bytes
) -> None:
    launcher = images.installed(tmp_path)
    assert says_version(launcher)
    paths = [*(tmp_path / "singrun/__pycache__").glob("*.code*")]
    whole = [path.read_bytes() for path in paths]
    assert len(paths) == 2
    for path in paths:
        path.write_bytes(content)
    assert says_version(launcher)
    assert [path.read_bytes() for path in paths] == whole
    others = next(path for path in paths if path.suffix == ".others")
    others.write_bytes(content)
    subprocess.run([launcher, "instances"], env={}, cwd="/", check=True)  # takes one of them


def test_the_start_of_an_earlier_version_is_not_executed(tmp_path: Path) -> None:
    """It may take other arguments."""
    launcher = images.installed(tmp_path)
    assert says_version(launcher)
    (file,) = (tmp_path / "singrun/__pycache__").glob("*.code")
    extension, codes = marshal.loads(file.read_bytes())
    time, size, _ = codes["bytecode.py"]
    earlier = compile("def start(*_): raise SystemExit('earlier')", "bytecode.py", "exec")
    for state in ((time - 1, size), (time, size + 1)):
        codes["bytecode.py"] = (*state, earlier)
        file.write_bytes(marshal.dumps((extension, codes)))
        assert says_version(launcher)
        _, codes = marshal.loads(file.read_bytes())
        assert codes["bytecode.py"][:2] == (time, size)


def test_the_one_file_knows_the_lines_of_its_sources(tmp_path: Path) -> None:
    """What a bug prints names them; columns, annotations and docstrings are left out."""
    source = images.ROOT / "singrun/errors.py"
    shutil.copy(source, tmp_path / "errors.py")
    *_, code = compilation.compiled(str(tmp_path), "errors.py")
    assert isinstance(code, types.CodeType)
    plain = functions(compile(source.read_text(), "errors.py", "exec", optimize=2))
    with_code = [each for each in plain if each.co_name != "__annotate__"]  # Python 3.14
    for one, other in zip(functions(code), with_code, strict=True):
        lines = [{line for *_, line in each.co_lines()} for each in (one, other)]
        assert (one.co_name, lines[0]) == (other.co_name, lines[1])
    values: dict[str, typing.Any] = {"__name__": "errors"}
    exec(code, values)
    assert values["say"].__annotations__ == {}
    assert values["say"].__doc__ is None


def test_a_file_that_cannot_be_put_in_its_place_is_removed(tmp_path: Path) -> None:
    (tmp_path / "taken.code").mkdir()
    with pytest.raises(IsADirectoryError):
        compilation._replace(str(tmp_path / "taken.code"), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.code"]


def functions(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from functions(value)


def test_runtime_and_builder_have_one_version() -> None:
    assert singrun.__version__ == singbuild.__version__


def says_version(launcher: Path, **environment: str) -> bool:
    done = subprocess.run(
        [launcher, "--version"],
        env={"PATH": "/usr/bin:/bin"} | environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode == 0 and done.stdout == f"singrun {singrun.__version__}\n"


def test_the_launcher_finds_a_source_checkout_also_through_links(tmp_path: Path) -> None:
    assert says_version(images.ROOT / "bin/singrun")
    (tmp_path / "one").symlink_to(images.ROOT / "bin/singrun")
    (tmp_path / "two").symlink_to("one")
    assert says_version(tmp_path / "two")
    (tmp_path / "bin dir").symlink_to(images.ROOT / "bin")
    assert says_version(tmp_path / "bin dir/singrun")


def test_the_launcher_needs_no_fork(tree: Path) -> None:
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    launcher = images.ROOT / "bin/singrun"
    command = ["strace", "-f", "-e", "trace=process", str(launcher), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "execve" in done.stderr
    assert not re.search(r"\b(clone3?|v?fork)\(", done.stderr)


def test_a_launcher_without_its_package_says_so(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    launcher = Path(shutil.copy(images.ROOT / "bin/singrun", tmp_path / "bin/singrun"))
    done = subprocess.run([launcher], capture_output=True, text=True, check=False)
    assert done.returncode == 255
    assert str(tmp_path) in done.stderr


def test_the_users_python_settings_do_not_reach_the_runtime(tmp_path: Path) -> None:
    (tmp_path / "os.py").write_text("raise SystemExit('not the real os')\n")
    (tmp_path / "singrun.py").write_text("raise SystemExit('not the real singrun')\n")
    launcher = images.ROOT / "bin/singrun"
    assert says_version(launcher, PYTHONPATH=str(tmp_path), PYTHONSTARTUP=str(tmp_path / "os.py"))


@pytest.mark.network
@pytest.mark.parametrize("editable", [False, True])
def test_the_launcher_finds_what_pip_installed(tmp_path: Path, editable: bool) -> None:
    prefix = editable_installation(tmp_path) if editable else installation.programs().parent
    launcher = prefix / "bin/singrun"
    assert launcher.read_bytes() == (images.ROOT / "bin/singrun").read_bytes()
    assert os.access(launcher, os.X_OK)
    assert says_version(launcher)
    (tmp_path / "link").symlink_to(launcher)
    assert says_version(tmp_path / "link")


def editable_installation(directory: Path) -> Path:
    prefix, source = directory / "prefix", directory / "source"
    subprocess.run([sys.executable, "-m", "venv", prefix], check=True)
    ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache")
    shutil.copytree(images.ROOT, source, ignore=ignored)
    install = [str(prefix / "bin/pip"), "install", "-q", "--no-deps", "-e", str(source)]
    subprocess.run(install, check=True)
    return prefix


def test_a_build_of_the_hosts_files_imports_no_requests(tmp_path: Path) -> None:
    """It takes 30 ms: neither do singbuild, its modules of a build, and what backends import."""
    recipe = tmp_path / "a.def"
    recipe.write_text("Bootstrap: busybox\n")
    words = ["-X", "importtime", "-m", "singbuild", "plan", recipe]
    code = "import singbuild, singbuild.build, singbuild.download, singbuild_busybox_binary"
    for argv in (words, ["-X", "importtime", "-c", code]):
        done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=True)
        assert "singbuild.download" in done.stderr
        assert not re.search(r"\b(requests|urllib3|elftools|debian)\b", done.stderr)
