"""`make deb` and `make rpm`: installed, used, upgraded and removed, each on a host of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench import debian_hosts
from tests.bench.host import shared_directory
from tests.bench.singrun_images import ROOT
from tests.bench.throwaway_host import USER, Host, throwaway_host

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.long]
pytestmark += [pytest.mark.slow("each installs on a Debian of its own")]
pytestmark += [pytest.mark.timeout(3600)]  # each installs with pip, which a busy host makes long

NEXT = "99.0"  # a version to come
# What tells of packages, logs, homes, and what programs of the host keep.
APART = ("root", "var/lib/dpkg", "var/lib/rpm", "var/lib/apt", "var/log", "var/cache")
INSTALL = {
    "deb": "dpkg -i /tmp/{}/*.deb",
    # The packages of this host are dpkg's, so rpm knows of no Python.
    "rpm": "rpm -U --nodeps /tmp/{}/*.rpm",
}
REMOVE = {
    "deb": "dpkg --purge singbuild-singularity singbuild singrun",
    "rpm": "rpm -e singbuild-singularity singbuild singrun",
}
CONFLICTS = {
    "deb": "dpkg-deb -f /tmp/now/singbuild-singularity_*.deb Conflicts",
    "rpm": "rpm -qp --conflicts /tmp/now/singbuild-singularity-*.rpm",
}
USE = """
set -eu
cd; rm -rf a.img
printf 'Bootstrap: busybox\\n%%runscript\\n    echo "hello $*"\\n' > a.def
singbuild -q a.def a.img
./a.img world
singrun exec a.img id -u
singularity exec a.img echo by singularity
apptainer --version
zcat /usr/share/man/man1/singbuild.1.gz | head -1 | cut -d' ' -f1,2
ls /usr/share/man/man5/singrun.conf.5.gz /usr/share/bash-completion/completions/singbuild
singbuild backends | grep -c docker
"""
USED = """\
hello world
61616
by singularity
apptainer version 1.4.5
.TH SINGBUILD
/usr/share/bash-completion/completions/singbuild
/usr/share/man/man5/singrun.conf.5.gz
"""


@contextmanager
def host(name: str, source: Path) -> Iterator[Host]:
    lower = Path("/") if name == "this" else debian_hosts.root(name)
    places = (*(debian_hosts.OF_THIS_MACHINE if name != "this" else ()), str(source))
    with throwaway_host(lower, places) as product:
        yield product


@pytest.fixture(scope="module")
def source() -> Iterator[Path]:
    """Two checkouts: as it is, and of a version to come."""
    with shared_directory() as directory:
        ignored = shutil.ignore_patterns(
            ".git", ".venv", "__pycache__", ".*_cache", ".demo", "dist"
        )
        for name in ("now", "next"):
            shutil.copytree(ROOT, directory / name, ignore=ignored)
        for part in ("singbuild", "singrun"):
            file = directory / f"next/{part}/__init__.py"
            lines = [
                f'__version__ = "{NEXT}"' if line.startswith("__version__") else line
                for line in file.read_text().splitlines()
            ]
            file.write_text("\n".join(lines) + "\n")
        yield directory


def new_files(there: Host) -> set[Path]:
    """What the host has and the root below it has not: files that were written, and still are."""
    upper = there.place / "layer/upper"
    result = {path.relative_to(upper) for path in upper.rglob("*") if not path.is_char_device()}
    return {
        path
        for path in result
        if not os.path.lexists(there.lower / path) and not str(path).startswith(APART)
    }


@pytest.mark.parametrize(
    ("kind", "name"), [("deb", "bookworm"), ("deb", "trixie"), ("rpm", "this")]
)
def test_a_package_is_installed_used_upgraded_and_removed(
    kind: str, name: str, source: Path
) -> None:
    with host(name, source) as there:
        for each in ("now", "next"):
            build = f"cp -r {source}/{each} /tmp/build-{each} && make -C /tmp/build-{each} {kind}"
            there.run(
                "sh",
                "-ec",
                f"{build} && mkdir /tmp/{each} && mv /tmp/build-{each}/dist/* /tmp/{each}",
            )
        others = there.run("sh", "-c", CONFLICTS[kind])
        assert "apptainer" in others  # whose commands it has
        before = new_files(there)
        there.run("sh", "-ec", INSTALL[kind].format("now"))
        assert there.run("sh", "-c", USE, who=USER).startswith(USED)
        assert there.run("sh", "-c", USE).replace("\n0\n", "\n61616\n").startswith(USED)
        there.run("sh", "-ec", INSTALL[kind].format("next"))
        assert there.run("singrun", "--version") == f"singrun {NEXT}\n"
        assert there.run("singbuild", "--version", who=USER) == f"singbuild {NEXT}\n"
        assert there.run("./a.img", "again", who=USER) == "hello again\n"  # one of the old version
        there.run("sh", "-ec", REMOVE[kind])
        assert new_files(there) - before == set()
