"""Binds in binds, in scratch directories and in what is the user's; the site's that cannot be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root


@pytest.fixture(params=["root, loop", "user"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people[request.param]
    images.wait_for_daemons(str(bench.directory))


@pytest.fixture
def own(person: Person, bench: Bench) -> Iterator[Path]:
    path = bench.directory / f"own-{person.name}"
    path.mkdir()
    (path / "file").write_text("mine\n")
    for each in (path, path / "file"):
        os.chown(each, person.uid, person.gid)
    yield path
    shutil.rmtree(path)


def test_a_missing_place_is_made_in_what_the_user_bound_writable(
    person: Person, bench: Bench, own: Path
) -> None:
    """As CWL's InitialWorkDir has it: files below the output directory, which is the home."""
    options = ("--home", f"{own}:/x", "-B", "/etc:/x/sub/deep", "-B", f"{own}/file:/x/sub/file")
    script = "ls -d /x/sub/deep/hosts; cat /x/sub/file"
    said = person.said("exec", *options, bench.image, "sh", "-c", script)
    assert said == "/x/sub/deep/hosts\nmine\n"
    for path in (own / "sub", own / "sub/deep", own / "sub/file"):
        assert path.stat().st_uid == person.uid
    assert not [*(own / "sub/deep").iterdir()]


def test_a_missing_place_in_the_home_is_made_there(person: Person, bench: Bench) -> None:
    place = Path(person.home, f"made-{os.getpid()}")
    try:
        said = person.said("exec", "-B", f"/etc:{place}", bench.image, "ls", "-d", place / "hosts")
        assert said == f"{place}/hosts\n"
        assert place.stat().st_uid == person.uid
    finally:
        place.rmdir()


def test_a_missing_place_in_a_read_only_bind_is_made_in_memory(
    person: Person, bench: Bench, own: Path
) -> None:
    options = ("-B", f"{own}:/x:ro", "-B", "/etc:/x/sub")
    said = person.said("exec", *options, bench.image, "sh", "-c", "ls -d /x/sub/hosts; cat /x/file")
    assert said == "/x/sub/hosts\nmine\n"
    assert [each.name for each in own.iterdir()] == ["file"]


def test_nothing_is_made_with_the_rights_of_sudo(bench: Bench) -> None:
    root, user = bench.people["root, loop"], bench.people["user"]
    given = {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.gid), "PATH": "/usr/bin:/bin"}
    options = ("--as-caller", "-B", "/etc:/x", "-B", "/usr:/x/singrun-made")
    done = root.singrun("exec", *options, bench.image, "true", env=given, cwd="/")
    assert (done.returncode, b"creates nothing" in done.stderr) == (255, True)
    assert not Path("/etc/singrun-made").exists()


def test_binds_nest_in_any_order_and_lie_over_scratch_directories(
    person: Person, bench: Bench, own: Path
) -> None:
    (own / "sub/in").mkdir(parents=True)
    binds = [f"{own}/sub:/x/y/z", f"{own}:/x", "/etc:/x/y/z/in", "/usr:/scr/one/two"]
    script = "ls -d /x/file /x/y/z /x/y/z/in/hosts /scr/one/two/bin; touch /scr/one/mine"
    for order in (binds, binds[::-1]):
        options = [word for bind in order for word in ("-B", bind)]
        said = person.said("exec", *options, "-S", "/scr", bench.image, "sh", "-c", script)
        assert said.split() == ["/scr/one/two/bin", "/x/file", "/x/y/z", "/x/y/z/in/hosts"]


@pytest.mark.parametrize("place", ["/tmp", "/var/tmp"])
def test_a_workdir_below_a_temporary_directory_is_bound_again(
    person: Person, bench: Bench, place: str
) -> None:
    own = Path(place, f"singrun-{os.getpid()}-{person.name}")
    own.mkdir()
    os.chown(own, person.uid, person.gid)
    try:
        options = ("--contain", "-W", own, "-B", own)
        person.said("exec", *options, bench.image, "touch", own / "made")
        assert (own / "made").exists()
    finally:
        shutil.rmtree(own)


def test_the_sites_binds_that_cannot_be_are_left_out_with_a_warning(
    person: Person, bench: Bench, own: Path
) -> None:
    site = bench.directory / "singrun.conf"
    site.write_text(
        "bind path = /etc/hosts:/bin\nbind path = /etc/hosts:/etc/passwd/x\n"
        "bind path = /usr:/also\n"
    )
    given = person.environment() | {"SINGRUN_CONFIG": str(site)}
    done = person.singrun("exec", bench.image, "ls", "-d", "/also/bin", env=given)
    assert (done.returncode, done.stdout) == (0, b"/also/bin\n"), done
    said = done.stderr.decode()
    assert "Not shared: /bin" in said
    assert "Not shared: /etc/passwd/x" in said
