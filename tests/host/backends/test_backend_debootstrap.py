"""A small real Debian, installed into a directory."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import singbuild_debootstrap

from singbuild import HostError, Rootfs, SourceError
from tests.bench.backend_alone import bootstrap, source
from tests.bench.debian_archive import SUITE

pytestmark = [pytest.mark.root, pytest.mark.network]
Filled = tuple[Path, dict[str, Any], Path]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, mini_debian: str) -> Filled:
    """A Debian with netbase, in a directory that debootstrap alone could not take."""
    base = tmp_path_factory.mktemp("debootstrap")
    root, cache = base / "root with 'quotes'", base / "cache of packages"
    root.mkdir()
    cache.mkdir()
    words = dict(line.split(": ") for line in [*mini_debian.splitlines(), "Include: netbase"])
    return root, bootstrap("singbuild_debootstrap", root, cache, **words), cache


def inside(root: Path, *argv: str) -> str:
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.check_output(["chroot", root, *argv], text=True, env=env)


def test_it_is_a_sound_debian(filled: Filled) -> None:
    root, _, _ = filled
    assert SUITE in inside(root, "cat", "/etc/os-release")
    assert inside(root, "dpkg", "--audit") == ""
    assert "ssh" in inside(root, "cat", "/etc/services")


def test_exactly_the_pinned_packages_are_installed(filled: Filled) -> None:
    root, result, _ = filled
    form = "${Package} ${Version} ${db:Status-Abbrev}\\n"
    installed = inside(root, "dpkg-query", "-W", "-f", form).splitlines()
    pinned = [f"{n} {p['version']} ii " for n, p in result["pins"]["packages"].items()]
    assert sorted(installed) == sorted(pinned)


def test_dpkg_knows_the_packages_as_they_were_fetched(filled: Filled) -> None:
    root, result, _ = filled
    available = (root / "var/lib/dpkg/available").read_text()
    for package in result["pins"]["packages"].values():
        assert f"\nSize: {package['size']}\nSHA256: {package['sha256']}\n" in available


def test_nothing_of_the_host_or_the_build_is_left(filled: Filled) -> None:
    root, result, _ = filled
    assert (root / "etc/hostname").read_text() == "localhost\n"
    assert (root / "etc/resolv.conf").read_text() == ""
    mirror = result["pins"]["mirror"]
    assert (root / "etc/apt/sources.list").read_text() == f"deb {mirror} {SUITE} main\n"
    for name in ("debootstrap", "var/log/bootstrap.log"):
        assert not (root / name).exists()
    for directory in ("var/cache/apt/archives", "var/lib/apt/lists", "proc", "sys"):
        assert not [p for p in (root / directory).rglob("*") if not p.is_dir() and p.name != "lock"]


def test_progress_is_told_phase_by_phase(filled: Filled) -> None:
    _, result, _ = filled
    last = {label: (done, total) for label, done, total in result["steps"]}
    count = len(result["pins"]["packages"])
    size = sum(package["size"] for package in result["pins"]["packages"].values())
    assert last[f"Fetching {count} packages"] == (size, size)
    assert last["Unpacking"] == (count, count)
    assert last["Configuring"][1] == count
    assert all(done <= total for done, total in last.values())
    assert "Base system installed successfully." in result["lines"]


def test_packages_come_from_the_cache_and_damage_is_noticed(filled: Filled) -> None:
    _, result, cache = filled
    unreachable = result["pins"] | {"mirror": "http://127.0.0.1:9/debian"}
    debs = singbuild_debootstrap._fetch(unreachable, source(cache))
    assert debs.keys() == result["pins"]["packages"].keys()
    content = debs["netbase"].read()
    debs["netbase"].path.write_bytes(content[:-1])
    with pytest.raises(SourceError, match="netbase"):
        singbuild_debootstrap._fetch(unreachable, source(cache))
    again = singbuild_debootstrap._fetch(result["pins"], source(cache))
    assert again["netbase"].read() == content


def test_a_failure_shows_what_debootstrap_said(filled: Filled, tmp_path: Path) -> None:
    _, result, cache = filled
    root = tmp_path / "root"
    root.mkdir()
    only = {"netbase": result["pins"]["packages"]["netbase"]}
    environment = source(cache)
    with pytest.raises(HostError, match="debootstrap failed") as caught:
        singbuild_debootstrap.singbuild_bootstrap(
            environment, result["pins"] | {"packages": only}, Rootfs(root, environment.report)
        )
    assert "usr-is-merged" in caught.value.why
    assert [*tmp_path.iterdir()] == [root]


def test_a_package_outside_the_archive_is_refused(filled: Filled, tmp_path: Path) -> None:
    _, result, cache = filled
    evil = {"netbase": result["pins"]["packages"]["netbase"] | {"file": "pool/../../../etc/passwd"}}
    with pytest.raises(SourceError, match="outside itself"):
        singbuild_debootstrap._fetch(result["pins"] | {"packages": evil}, source(cache))
