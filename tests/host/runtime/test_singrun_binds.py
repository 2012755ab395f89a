"""Binds in binds, in scratch directories and in what is the user's; the site's that cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
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
    output = person.output("exec", *options, bench.image, "sh", "-c", script)
    assert output == "/x/sub/deep/hosts\nmine\n"
    for path in (own / "sub", own / "sub/deep", own / "sub/file"):
        assert path.stat().st_uid == person.uid
    assert not [*(own / "sub/deep").iterdir()]


def test_a_missing_place_in_the_home_is_made_there(person: Person, bench: Bench) -> None:
    place = Path(person.home, f"made-{os.getpid()}")
    try:
        output = person.output(
            "exec", "-B", f"/etc:{place}", bench.image, "ls", "-d", place / "hosts"
        )
        assert output == f"{place}/hosts\n"
        assert place.stat().st_uid == person.uid
    finally:
        place.rmdir()


def test_a_missing_place_in_a_read_only_bind_is_made_in_memory(
    person: Person, bench: Bench, own: Path
) -> None:
    options = ("-B", f"{own}:/x:ro", "-B", "/etc:/x/sub")
    output = person.output(
        "exec", *options, bench.image, "sh", "-c", "ls -d /x/sub/hosts; cat /x/file"
    )
    assert output == "/x/sub/hosts\nmine\n"
    assert [each.name for each in own.iterdir()] == ["file"]


def test_nothing_is_made_with_the_rights_of_sudo(bench: Bench) -> None:
    root, user = bench.people["root, loop"], bench.people["user"]
    environment = {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.gid), "PATH": "/usr/bin:/bin"}
    options = ("--as-caller", "-B", "/etc:/x", "-B", "/usr:/x/singrun-made")
    done = root.singrun("exec", *options, bench.image, "true", env=environment, cwd="/")
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
        output = person.output("exec", *options, "-S", "/scr", bench.image, "sh", "-c", script)
        assert output.split() == ["/scr/one/two/bin", "/x/file", "/x/y/z", "/x/y/z/in/hosts"]


@pytest.mark.parametrize("place", ["/tmp", "/var/tmp"])
def test_a_workdir_below_a_temporary_directory_is_bound_again(
    person: Person, bench: Bench, place: str
) -> None:
    own = Path(place, f"singrun-{os.getpid()}-{person.name}")
    own.mkdir()
    os.chown(own, person.uid, person.gid)
    try:
        options = ("--contain", "-W", own, "-B", own)
        person.output("exec", *options, bench.image, "touch", own / "made")
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
    environment = person.environment() | {"SINGRUN_CONFIG": str(site)}
    done = person.singrun("exec", bench.image, "ls", "-d", "/also/bin", env=environment)
    assert (done.returncode, done.stdout) == (0, b"/also/bin\n"), done
    output = done.stderr.decode()
    assert "Not shared: /bin" in output
    assert "Not shared: /etc/passwd/x" in output


def packed(tree: Path, image: Path) -> Path:
    subprocess.run(
        ["mksquashfs", tree, image, "-quiet", "-no-progress"], check=True, stdout=subprocess.DEVNULL
    )
    return image


@pytest.fixture
def files(own: Path, person: Person) -> Path:
    """Images of data: a squashfs and an ext3 with a directory ``sub``, which holds a file."""
    tree = own / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_text("of the image\n")
    (tree / "large").write_bytes(bytes(8 << 20))  # or the ext3 has no room for a journal
    packed(tree, own / "data.sqsh")
    images.ext3(tree, own / "data.img")
    subprocess.run(["chown", "-R", f"{person.uid}:{person.gid}", own], check=True)
    return own


@pytest.mark.parametrize("name", ["data.sqsh", "data.img"])
def test_a_directory_of_an_image_is_bound(
    person: Person, bench: Bench, files: Path, name: str
) -> None:
    image = files / name
    for options in (
        ("-B", f"{image}:/data:image-src=/sub"),
        ("-B", f"/etc:/one,{image}:/data:ro,image-src=sub,/usr:/two"),
        ("--mount", f"type=bind,source={image},target=/data,image-src=/sub"),
    ):
        output = person.output(
            "exec", *options, bench.image, "sh", "-c", "cat /data/file; ls /data"
        )
        assert output == "of the image\nfile\n"
    option = f"{image}:/more:ro,image-src=/sub/file"
    assert person.output("exec", "-B", option, bench.image, "cat", "/more") == "of the image\n"
    done = person.singrun("exec", "-B", f"{image}:/data:image-src=/none", bench.image, "true")
    assert done.returncode == 255
    assert b"There is no /none in" in done.stderr
    images.wait_for_daemons(str(files))


def test_an_ext3_image_of_data_is_written_unless_read_only(
    person: Person, bench: Bench, files: Path
) -> None:
    image = files / "data.img"
    script = "echo new >/data/sub/new"
    option = f"{image}:/data:ro,image-src=/"
    done = person.singrun("exec", "-B", option, bench.image, "sh", "-c", script)
    assert b"Read-only file system" in done.stderr
    person.output("exec", "-B", f"{image}:/data:image-src=/", bench.image, "sh", "-c", script)
    output = person.output("exec", "-B", option, bench.image, "cat", "/data/sub/new")
    assert output == "new\n"
    images.wait_for_daemons(str(image))
    check = subprocess.run(["e2fsck", "-fn", image], capture_output=True, check=False)
    assert check.returncode == 0, check


def test_an_escape_from_an_image_of_data_leads_nowhere(
    person: Person, bench: Bench, files: Path
) -> None:
    (files / "tree/link").symlink_to("/etc")
    packed(files / "tree", files / "links.sqsh")
    option = f"{files}/links.sqsh:/data:image-src=/link"
    done = person.singrun("exec", "-B", option, bench.image, "true")
    assert (done.returncode, b"There is no /link in" in done.stderr) == (255, True)


def test_mounts_of_every_spelling(person: Person, bench: Bench, own: Path) -> None:
    odd = own / 'a,b "c"'
    odd.mkdir()
    (odd / "file").touch()
    quoted = str(odd).replace('"', '""')
    options = (
        *("--mount", f'type=bind,"source={quoted}",target=/odd'),
        "--mount=type=bind,src=/etc,dst=/one,readonly",
        "--mount=type=bind,source=/usr,destination=/two,ro=true",
        f"--mount=type=bind,source={own},target=/three,ro=false",
    )
    script = "ls -d /odd/file /one/hosts /two/bin; touch /three/made; touch /odd/made; touch /one/x"
    done = person.singrun("exec", *options, bench.image, "sh", "-c", script)
    assert done.stdout == b"/odd/file\n/one/hosts\n/two/bin\n"
    assert b"/one/x: Read-only file system" in done.stderr
    assert (own / "made").exists()
    environment = person.environment() | {"APPTAINER_MOUNT": "type=bind,src=/etc,dst=/one"}
    assert person.output("exec", bench.image, "ls", "-d", "/one", env=environment) == "/one\n"


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        ("type=tmpfs,target=/x", b"It takes type=bind"),
        ("type=bind,source=/etc", b"and a target"),
        ("type=bind,source=/etc,target=/x,speed=9", b"Cannot understand --mount speed=9"),
        ('type=bind,"source=/etc,target=/x', b"Cannot understand --mount"),
        ("type=bind,source=/no/such,target=/x", b"Cannot bind /no/such"),
    ],
)
def test_mounts_that_mean_nothing(bench: Bench, words: str, needle: bytes) -> None:
    done = bench.people["user"].singrun("exec", "--mount", words, bench.tree, "true")
    assert (done.returncode, needle in done.stderr) == (255, True), done
