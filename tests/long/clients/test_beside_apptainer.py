"""Our apptainer beside Apptainer 1.4.5: the same lines, the same outcomes but where it says why.

Slow: debootstrap makes the Debian sid that both run in once (minutes), pip installs ours there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench import debian_hosts as hosts
from tests.bench import singrun_images as images
from tests.bench.host import shared_directory
from tests.long.clients import runner

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]

LINES = Path(__file__).with_name("lines.txt")
RECIPE = """\
Bootstrap: localimage
From: t
%labels
Owner ada
Words two words
%environment
export A=1
%post
echo made > /made
%runscript
echo ran "$@"
%test
exit 3
%help
Helps.
"""
START = '%startscript\necho started "$@"\nwhile :; do sleep 1; done\n'
APP = '%apprun foo\necho foo ran "$@"\n%apphelp foo\nHelps foo.\n'
Outcomes = dict[str, dict[str, Any]]


def furnish(template: Path) -> None:
    """Make what the lines name, but for a.sif."""
    tree = images.fill(template / "t")
    shutil.rmtree(tree / ".singularity.d")
    full = images.fill(template / "full")
    images.ext3(full, template / "i.img", boot=images.LAUNCH_LINE)
    shutil.rmtree(full)
    for name in ("d", "h", "o", "a,b"):
        (template / name).mkdir()
    (template / "d/file").write_text("data\n")
    (template / "h/mine").touch()
    (template / "env").write_text("FROM='a file'\n")
    words = ["mksquashfs", str(template / "d"), str(template / "data.sqsh"), "-quiet"]
    subprocess.run([*words, "-no-progress"], check=True)
    (template / "r.def").write_text(RECIPE)


@pytest.fixture(scope="module")
def source() -> Iterator[Path]:
    """What both see at /src: the checkout, our installation, the template, the lines."""
    with shared_directory() as directory:
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "tests")
        shutil.copytree(images.ROOT, directory / "checkout", ignore=ignored)
        for name in ("lines.txt", "runner.py"):
            shutil.copy(LINES.with_name(name), directory)
        furnish(directory / "template")
        (directory / "app.def").write_text(RECIPE + START + APP)
        subprocess.run(["chown", "-R", "4711:4711", directory], check=True)
        directory.chmod(0o777)
        script = "python3 -m venv /src/venv && /src/venv/bin/pip install -q /src/checkout"
        done = hosts.call(hosts.root("peers"), "sh", "-c", script, source=directory)
        assert done.returncode == 0, done.stderr
        script = "cd /src/template && apptainer build -T a.sif ../app.def"
        done = hosts.call(
            hosts.root("peers"), "sh", "-c", script, source=directory, user=hosts.USER
        )
        assert done.returncode == 0, done.stderr
        yield directory


def typed(source: Path, path: str) -> Outcomes:
    """Type all lines to the apptainer that is found first on a PATH."""
    words = ("env", f"PATH={path}", "python3", "/src/runner.py", "/src/lines.txt", "/src/template")
    done = hosts.call(
        hosts.root("peers"), *words, "/src/result.json", source=source, user=hosts.USER
    )
    assert done.returncode == 0, done.stderr
    result: Outcomes = json.loads((source / "result.json").read_text())
    (source / "result.json").unlink()
    return result


def compared(outcome: dict[str, Any]) -> dict[str, Any]:
    """What of an outcome counts: what is said on standard error differs by nature."""
    return {name: value for name, value in outcome.items() if name != "stderr"}


def test_the_same_lines_have_the_same_outcomes(source: Path) -> None:
    plain = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    theirs = typed(source, plain)
    ours = typed(source, f"/src/venv/bin:{plain}")
    if place := os.environ.get("SINGBUILD_TEST_OUTCOMES"):
        Path(place).write_text(json.dumps({"ours": ours, "theirs": theirs}, indent=1))
    unexplained, needless = [], []
    for line, reason in runner.lines(LINES.read_text()):
        differ = compared(ours[line]) != compared(theirs[line])
        if differ and not reason:
            unexplained.append(f"{line}\n  ours:   {ours[line]}\n  theirs: {theirs[line]}")
        if reason and not differ:
            needless.append(line)
    assert not unexplained, "\n".join(unexplained)
    assert not needless, "\n".join(["no longer differ:", *needless])


def test_there_are_many_lines_and_every_reason_is_documented() -> None:
    result = runner.lines(LINES.read_text())
    assert len(result) >= 490
    text = " ".join((images.ROOT / "docs/clients.md").read_text().split())
    for _, reason in result:
        assert reason in text or not reason
    assert len({line for line, _ in result}) == len(result)
    lines = [each for each in LINES.read_text().splitlines() if not each.startswith("#")]
    assert not any(re.search(r"\S#!", each) for each in lines)
