"""A user who comes from LDAP, and is in no file of the host, is the same user inside."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import ldap_users
from tests.bench import singrun_images as images

pytestmark = [
    pytest.mark.root,
    pytest.mark.long,
    pytest.mark.skipif(
        not all(shutil.which(name) for name in ldap_users.PROGRAMS),
        reason="slapd or nslcd is not installed",
    ),
]


@pytest.fixture(scope="module")
def directory(bench: images.Bench) -> Iterator[ldap_users.Directory]:
    before = Path("/etc/nsswitch.conf").read_bytes()
    place = bench.directory / "ldap"
    place.mkdir()
    with ldap_users.directory(place) as result:
        yield result
    assert Path("/etc/nsswitch.conf").read_bytes() == before


@pytest.mark.parametrize("way", ["fuse2fs", "unpack"])
def test_a_user_of_ldap_is_the_same_inside(
    bench: images.Bench, directory: ldap_users.Directory, way: str
) -> None:
    inside = (bench.launcher, "exec", "--mount-with", way, bench.image)
    for words in (("id", "-un"), ("id", "-u"), ("id", "-gn"), ("id", "-g")):
        outside = directory.call(*words)
        assert outside.stdout.strip()
        assert directory.call(*inside, *words).stdout == outside.stdout
    script = "cat /etc/passwd; cd; pwd; touch ~/mine; grep Groups /proc/self/status"
    done = directory.call(*inside, "sh", "-c", script)
    entry = directory.call("getent", "passwd", directory.name).stdout
    assert (done.returncode, done.stderr) == (0, ""), done
    first, *_, place, groups = done.stdout.splitlines()
    assert first.replace(":x:", ":*:") == entry.strip().replace(":x:", ":*:")
    assert first.endswith(f":Of the Directory:{directory.home}:/bin/ls")
    assert place == str(directory.home)
    assert "www:x:33:33" in done.stdout  # the image's own stay
    assert (directory.home / "mine").stat().st_uid == int(entry.split(":")[2])
    assert len(groups.split()) == 1 + len(directory.call("id", "-G").stdout.split())
    images.wait_for_daemons(str(bench.image))


def test_groups_of_ldap_have_their_names_inside(
    bench: images.Bench, directory: ldap_users.Directory
) -> None:
    output = directory.call(bench.launcher, "exec", bench.image, "cat", "/etc/group").stdout
    names = {line.split(":")[0] for line in output.splitlines()}
    assert {*directory.call("id", "-Gn").stdout.split()} <= names
    assert "astronomers" in names
    images.wait_for_daemons(str(bench.image))
