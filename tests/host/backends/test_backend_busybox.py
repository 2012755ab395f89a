"""The busybox backend filling a directory, and programs running in it."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import singbuild_busybox

from singbuild import Rootfs, SourceError
from tests.bench.backend_alone import bootstrap, source

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    base = tmp_path_factory.mktemp("busybox")
    (base / "root").mkdir()
    return base / "root", bootstrap("singbuild_busybox", base / "root", base)


def inside(root: Path, *argv: str) -> str:
    return subprocess.check_output(
        ["chroot", root, *argv], text=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    )


def test_programs_run_by_their_names(filled: tuple[Path, dict[str, Any]]) -> None:
    root, result = filled
    assert inside(root, "/bin/sh", "-c", "echo hello | tr a-z A-Z") == "HELLO\n"
    assert result["pins"]["version"] in inside(root, "/bin/busybox")


def test_every_applet_is_a_link_that_leads_to_busybox(filled: tuple[Path, dict[str, Any]]) -> None:
    root, _ = filled
    expected = set(inside(root, "/bin/busybox", "--list-full").split()) - {"linuxrc", "bin/busybox"}
    links = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_symlink()}
    assert links == expected
    assert all((root / link).resolve() == root / "bin/busybox" for link in links)


def test_the_tree_is_minimal_and_its_modes_are_right(filled: tuple[Path, dict[str, Any]]) -> None:
    root, _ = filled
    files = {p.name for p in root.rglob("*") if p.is_file() and not p.is_symlink()}
    assert files == {"busybox", "passwd", "group", "hosts", "nsswitch.conf", "shells"}
    modes = {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700, "bin/busybox": 0o755, "etc": 0o755}
    for place, mode in modes.items():
        assert stat.S_IMODE((root / place).stat().st_mode) == mode, place
    assert all((p.lstat().st_uid, p.lstat().st_gid) == (0, 0) for p in root.rglob("*"))
    assert inside(root, "/usr/bin/id", "-un") == "root\n"


def test_two_bootstraps_give_the_same_tree(
    filled: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    root, result = filled
    (tmp_path / "root").mkdir()
    again = bootstrap("singbuild_busybox", tmp_path / "root", tmp_path)
    assert again["pins"] == result["pins"]
    assert listing(tmp_path / "root") == listing(root)


def listing(root: Path) -> str:
    format_ = "%P %y %#m %U:%G %l %s\n"
    outcome = subprocess.check_output(
        ["find", root, "-type", "f,l,d", "-printf", format_], text=True
    )
    # A directory's size is the file system's own affair.
    return "\n".join(sorted(x.rsplit(" ", 1)[0] if " d " in x else x for x in outcome.split("\n")))


def test_a_busybox_without_a_shell_is_refused(tmp_path: Path) -> None:
    shy = tmp_path / "busybox"
    program = tmp_path / "main.c"
    program.write_text(
        '#include <stdio.h>\nint main(void) { puts("bin/ls\\n../../etc/evil\\nBusyBox v9.9"); }'
    )
    if not shutil.which("gcc"):
        pytest.skip("needs a C compiler")
    subprocess.run(["gcc", "-static", "-o", shy, program], check=True)
    (tmp_path / "root").mkdir()
    with pytest.raises(AssertionError, match="has no shell"):
        bootstrap("singbuild_busybox", tmp_path / "root", tmp_path, MirrorURL=str(shy))
    assert not (tmp_path / "etc/evil").exists()


def test_a_binary_that_changed_in_the_cache_is_refused(tmp_path: Path) -> None:
    environment = source(tmp_path)
    pins = singbuild_busybox.singbuild_resolve(environment)
    (tmp_path / pins["sha256"]).write_bytes(b"something else")
    (tmp_path / "root").mkdir()
    for _ in range(2):
        with pytest.raises(SourceError, match="gone or was changed"):
            singbuild_busybox.singbuild_bootstrap(
                environment, pins, Rootfs(tmp_path / "root", environment.report)
            )
        (tmp_path / pins["sha256"]).unlink(missing_ok=True)
