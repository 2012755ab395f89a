"""%post in several parts: each a step in the cache, and together one script."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from singbuild.ext3.reader.image import Image
from singbuild.file_tree import REGULAR, SYMLINK
from tests.bench.builds import Build
from tests.bench.singrun_images import ROOT

pytestmark = pytest.mark.root

HEAD = "Bootstrap: busybox\n"
PARTS = [
    "    A='it is'\n    export B=exported\n    mkdir /opt\n    cd /opt\n    umask 027\n"
    "    set -u\n    alias hi='echo hi'\n",
    '    echo "$A" > one; printf x > .hidden; mkdir -m 1777 box; ln one box/two\n'
    '    trap "echo end > /end" EXIT\n',
    "    sh -c 'echo $B $PWD $(umask)' > three; hi > four; touch -d @1 box\n",
    "    rm -rf /usr/share; ln -s three box/five; chown 5:6 .hidden box/two\n",
    '    pwd > /where; ([ "$C" ] && echo set) || echo "-u holds" > /holds\n',
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    return tmp_path / "cache/stages"


def split(parts: list[str]) -> str:
    return HEAD + "".join(f"%post\n{part}" for part in parts)


def inside(image: Path, *argv: str) -> str:
    words = [sys.executable, "-m", "singrun", "exec", str(image), *argv]
    return subprocess.check_output(words, cwd=ROOT, text=True)


def hits(output: str) -> list[str]:
    return re.findall(r"cache: (\S+): hit", output)


def executed(output: str) -> list[str]:
    return re.findall(r"\] (post-\d): ", output)


def tree(path: Path) -> list[tuple[object, ...]]:
    """Everything in an image but what tells of the recipe."""
    result: list[tuple[object, ...]] = []
    with Image(path) as image:
        for entry in image.walk():
            node = entry.inode
            if not entry.path.startswith(b".singularity.d"):
                content = b"".join(image.stream(entry)) if node.kind == REGULAR else b""
                target = image.target(entry) if node.kind == SYMLINK else b""
                facts = (node.mode, node.uid, node.gid, node.mtime, node.links)
                result.append((entry.path, *facts, content, target))
    return result


def test_parts_make_the_bits_of_one_section(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    assert singbuild(recipe(split(PARTS)), "parts.img").returncode == 0
    whole = f"{HEAD}%post\n{''.join(PARTS)}"
    assert singbuild(recipe(whole), "whole.img").returncode == 0
    assert tree(tmp_path / "parts.img") == tree(tmp_path / "whole.img")
    assert (
        inside(tmp_path / "parts.img", "/bin/busybox", "cat", "/opt/three")
        == "exported /opt 0027\n"
    )
    assert (
        inside(tmp_path / "parts.img", "/bin/busybox", "cat", "/end", "/holds") == "end\n-u holds\n"
    )


def test_a_part_goes_on_where_the_directory_was_removed(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    """As hpccm's recipes do: they remove what they unpacked and worked in."""
    first = "    mkdir -p /a/b; cd /a/b; rm -rf /a\n"
    parts = [first, "    touch file 2>&- || echo none > /none\n", "    ls > /seen; cd /; mkdir b\n"]
    assert singbuild(recipe(split(parts)), "parts.img").returncode == 0
    whole = f"{HEAD}%post\n{''.join(parts)}"
    assert singbuild(recipe(whole), "whole.img").returncode == 0
    assert tree(tmp_path / "parts.img") == tree(tmp_path / "whole.img")
    assert inside(tmp_path / "parts.img", "/bin/busybox", "cat", "/none", "/seen") == "none\n"


@pytest.mark.parametrize("changed", [0, 2, 4])
def test_a_change_executes_only_what_comes_after_it(
    changed: int, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    assert singbuild(recipe(split(PARTS)), "a.img").returncode == 0
    edited = [*PARTS]
    edited[changed] += "    echo more > /more\n"
    done = singbuild(recipe(split(edited)), "b.img")
    assert hits(done.stdout) == [f"post-{changed}" if changed else "bootstrap"]
    assert executed(done.stdout) == [f"post-{number}" for number in range(changed + 1, 6)]
    assert "changed: %post" in done.stdout
    plain = singbuild("--no-cache", recipe(split(edited)), "c.img")
    assert plain.returncode == 0
    assert (tmp_path / "b.img").read_bytes() == (tmp_path / "c.img").read_bytes()


def test_what_fails_names_its_line_and_goes_on_there_with_what_the_shell_knew(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    text = split(
        ["    A=7; mkdir /opt; cd /opt\n", "    echo $A > seven\n    false\n", "    A=8\n"]
    )
    done = singbuild("--on-error=keep", "--no-cache", recipe(text), "a.img")
    assert done.returncode == 7
    assert "recipe.def:6: %post failed" in done.stderr
    done = singbuild("--resume", recipe(text.replace("    false", "    echo $A > eight")), "a.img")
    assert done.returncode == 0, done.stderr
    assert executed(done.stdout) == ["post-2", "post-3"]
    assert inside(tmp_path / "a.img", "/bin/busybox", "cat", "/opt/eight") == "7\n"


def test_exit_ends_all_parts(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    path = recipe(
        split(["    echo 1 > /n\n", "    echo 2 > /n\n    exit 0\n", "    echo 3 > /n\n"])
    )
    for name in ("a.img", "b.img"):  # the second from the cache
        done = singbuild(path, name)
        assert done.returncode == 0
        assert inside(tmp_path / name, "/bin/busybox", "cat", "/n") == "2\n"
    assert (
        "post-3 is left out: a %post before it called exit"
        in singbuild("--no-cache", path, "c.img").stderr
    )


def test_a_shell_that_knows_a_secret_is_not_cached(
    cache: Path,
    recipe: Callable[[str], Path],
    singbuild: Build,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "sesame-open-the-door")
    monkeypatch.setenv("http_proxy", "http://me:sesame-of-proxy@127.0.0.1:9")
    text = split(["    A=1\n", "    T=$(cat /run/secrets/t)\n", '    [ "${#T}" = 20 ]\n'])
    done = singbuild("--secret=id=t,env=TOKEN", recipe(text), "a.img")
    assert done.returncode == 0, done.stderr
    notes = [json.loads(note.read_text()) for note in cache.glob("*.json")]
    assert sorted(note["name"] for note in notes) == ["bootstrap", "image", "post-1", "post-3"]
    assert not any(b"sesame" in path.read_bytes() for path in cache.iterdir())


def test_the_report_has_each_step(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    singbuild("--junit=report.xml", recipe(split(["    true\n", "    sleep 1\n"])), "a.img")
    cases = ElementTree.parse(tmp_path / "report.xml").iter("testcase")
    times = {case.get("name"): float(case.get("time", "0")) for case in cases}
    assert [*times] == ["bootstrap", "%post-1", "%post-2"]
    assert times["%post-2"] >= 1


def test_a_post_that_was_never_split_gets_a_hint(
    recipe: Callable[[str], Path], singbuild: Build
) -> None:
    text = f"{HEAD}%post\n    sleep 6\n    echo 1 > /n\n"
    first = singbuild(recipe(text), "a.img")
    assert "hint:" not in first.stdout
    second = singbuild(recipe(text.replace("echo 1", "echo 2")), "b.img")
    assert "hint: a line %post before line 4 would have kept what is above it" in second.stdout
    split_there = text.replace("    echo 1", "%post\n    echo 1")
    assert "hint:" not in singbuild(recipe(split_there), "c.img").stdout


def test_what_a_build_adds_to_a_snapshot_is_kept_apart_from_it(
    cache: Path, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    """Where root may mount; elsewhere, and once hard links were written to, trees are whole."""
    parts = ["    dd if=/dev/zero bs=1M count=4 | tr '\\0' x > /opt\n", "    rm -r /usr\n"]
    singbuild(recipe(split(parts)), "a.img")
    for number in range(3):
        parts.append(f"    mv /opt /opt-; mv /opt- /opt; mkdir /{number}; rm -rf /dev/x\n")
        done = singbuild("--force", recipe(split(parts)), "a.img")
        assert done.returncode == 0, done.stderr
        assert hits(done.stdout) == [f"post-{number + 1}"]
        note = next(n for n in cache.glob("*.json") if f'"post-{number + 3}"' in n.read_text())
        assert json.loads(note.read_text()).get("onto"), note.read_text()
    assert singbuild("--no-cache", recipe(split(parts)), "b.img").returncode == 0
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()


def test_a_hard_link_of_a_snapshot_stays_one(
    cache: Path, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    parts = ["    echo one > /opt; ln /opt /other\n", "    :\n", "    echo two >> /other\n"]
    singbuild(recipe(split(parts)), "a.img")
    parts.append("    touch /third\n")  # after the one that writes
    parts[2] += "    cat /opt > /seen\n"
    done = singbuild("--force", recipe(split(parts)), "a.img")
    assert hits(done.stdout) == ["post-2"]
    note = next(n for n in cache.glob("*.json") if '"post-4"' in n.read_text())
    assert "onto" not in json.loads(note.read_text())
    singbuild("--no-cache", recipe(split(parts)), "b.img")
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()
    read = inside(tmp_path / "a.img", "/bin/busybox", "cat", "/opt", "/other", "/seen")
    assert read == "one\ntwo\n" * 3


def test_a_damaged_snapshot_that_was_laid_leaves_nothing_in_the_tree(
    cache: Path, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    """It is read while it is mounted already; then the one before it takes its place."""
    parts = ["    echo one > /one\n", "    echo two > /two\n", "    :\n"]
    singbuild(recipe(split(parts)), "a.img")
    note = next(n for n in cache.glob("*.json") if '"post-2"' in n.read_text())
    with note.with_suffix(".img").open("r+b") as image:
        image.seek(-4096, 2)
        image.write(b"damage")
    parts[2] = "    ls -d /upper /work /one /two > /seen 2>&1 || true\n"
    done = singbuild(recipe(split(parts)), "b.img")
    assert done.returncode == 0, done.stderr
    assert "is damaged" in done.stderr
    assert hits(done.stdout) == ["post-1"]
    assert executed(done.stdout) == ["post-2", "post-3"]
    assert singbuild("--no-cache", recipe(split(parts)), "c.img").returncode == 0
    assert (tmp_path / "b.img").read_bytes() == (tmp_path / "c.img").read_bytes()
