"""Writing: to the image itself, to layers over it, and who may do so at the same time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from singrun import syscalls
from singrun.images import lock_holders
from tests.bench import singrun_images as images
from tests.bench.host import PATIENCE, shared_directory
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root
ALONE = ["--no-home"]  # for which the image has no place


@pytest.fixture(params=["root, loop", "root, fuse2fs", "user"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people[request.param]
    images.wait_for_daemons(str(bench.directory))


@pytest.fixture
def own(person: Person, bench: Bench) -> Iterator[Path]:
    """A directory of the person's own with a copy of the image in it."""
    path = bench.directory / f"own-{person.name}"
    path.mkdir()
    shutil.copy(bench.image, path / "image.img")
    (path / "upper").mkdir()
    for each in (path, path / "image.img", path / "upper"):
        os.chown(each, person.uid, person.gid)
    yield path
    shutil.rmtree(path)


def check(image: Path, offset: int = 0) -> None:
    """The file system is whole, and was unmounted in order."""
    device = f"{image}?offset={offset}" if offset else str(image)
    done = subprocess.run(["e2fsck", "-fn", device], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    header = subprocess.run(["dumpe2fs", "-h", device], capture_output=True, text=True, check=True)
    assert re.search(r"Filesystem state: +clean$", header.stdout, re.MULTILINE)
    assert "needs_recovery" not in header.stdout


def test_what_is_written_is_in_the_image_when_singrun_returns(person: Person, own: Path) -> None:
    image = own / "image.img"
    script = "echo text >/new; mkdir /etc/d; rm /bin/cat; dd if=/dev/zero of=/big bs=1M count=2"
    done = person.singrun("exec", "-w", image, "sh", "-c", f"{script} 2>/dev/null; exit 7")
    assert done.returncode == 7, done
    check(image)
    output = person.output(
        "exec", image, "sh", "-c", "read x </new; echo $x; ls -d /etc/d; ls /bin"
    )
    assert output.startswith("text\n/etc/d\n")
    assert "cat" not in output.split()
    assert person.singrun("exec", image, "sh", "-c", ": >/new").returncode == 1


def test_a_killed_writer_leaves_a_whole_image(person: Person, own: Path) -> None:
    image = own / "image.img"
    script = "i=0; while :; do i=$((i+1)); echo $i >/file-$i; [ $i != 20 ] || echo up; done"
    for _ in range(3):
        words = person.words(
            person.launcher, "exec", "-w", *person.options, image, "sh", "-c", script
        )
        pipe = subprocess.PIPE
        with subprocess.Popen(words, stdout=pipe, env=person.environment(), cwd="/") as child:
            assert child.stdout
            child.stdout.readline()
            child.kill()
    images.wait_for_daemons(str(image))
    person.output(
        "exec", "-w", *ALONE, image, "true", cwd="/"
    )  # waits for the lock, replays the journal
    check(image)


def test_a_writer_killed_inside_dies_of_that_signal(person: Person, own: Path) -> None:
    done = person.singrun("exec", "-w", own / "image.img", "sh", "-c", ": >/new; kill -9 $$")
    assert done.returncode == -9
    check(own / "image.img")


def test_an_image_of_2x_is_written_behind_its_header(person: Person, own: Path) -> None:
    image = own / "header.img"
    image.write_bytes(images.HEADER_2X + (own / "image.img").read_bytes())
    os.chown(image, person.uid, person.gid)
    person.output("exec", "-w", *ALONE, image, "touch", "/new", cwd="/")
    assert image.read_bytes().startswith(images.HEADER_2X)
    check(image, offset=len(images.HEADER_2X))
    assert person.output("exec", image, "ls", "/new") == "/new\n"


def test_a_directory_is_written_by_who_may(person: Person, bench: Bench, own: Path) -> None:
    tree = own / "tree"
    shutil.copytree(bench.tree, tree, symlinks=True)
    subprocess.run(["chown", "-R", f"{person.uid}:{person.gid}", tree], check=True)
    person.output("exec", "-w", *ALONE, tree, "touch", "/new", cwd="/")
    assert (tree / "new").stat().st_uid == person.uid
    if person.uid:
        done = person.singrun("exec", "-w", bench.tree, "touch", "/new")
        assert done.returncode == 255
        assert b"write permission" in done.stderr


def test_reading_never_changes_a_byte(person: Person, own: Path) -> None:
    image = own / "image.img"
    os.utime(image, (1, 1))
    before = hashlib.sha256(image.read_bytes()).digest(), image.stat().st_mtime_ns
    for options in ([], ["--writable-tmpfs"], ["-o", str(own / "upper")]):
        person.output(
            "exec", *options, image, "sh", "-c", "cat /bin/busybox >/dev/null; ls -R /etc"
        )
    assert (hashlib.sha256(image.read_bytes()).digest(), image.stat().st_mtime_ns) == before


@pytest.mark.parametrize("first", [[], ["-w"]])
def test_a_busy_image_says_who_has_it(person: Person, own: Path, first: list[str]) -> None:
    image = own / "image.img"
    words = person.words(
        person.launcher, "exec", *first, *person.options, image, "sh", "-c", "echo up; read x"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        words, stdin=pipe, stdout=pipe, env=person.environment(), cwd="/"
    ) as child:
        assert child.stdout
        child.stdout.readline()
        second = [] if first else ["-w"]
        done = person.singrun("exec", *second, image, "true")
        assert done.returncode == 255
        year = time.strftime("%Y-")
        expected = f"on {os.uname().nodename} by process {child.pid} of {person.name} since {year}"
        assert expected in done.stderr.decode(), done
        if not first:
            assert person.output("exec", image, "echo", "x") == "x\n"  # readers share
        child.communicate(b"\n")
    assert person.output("exec", "-w", *ALONE, image, "echo", "x", cwd="/") == "x\n"


def test_a_file_of_another_file_system_is_not_taken_for_the_busy_one(tmp_path: Path) -> None:
    """Numbers of inodes begin anew in each."""
    places, files = [tmp_path / name for name in "ab"], list[int]()
    for place in places:
        place.mkdir()
        syscalls.mount("none", str(place), "tmpfs", syscalls.MS_NOSUID, "")
        files.append(os.open(place / "image", os.O_RDWR | os.O_CREAT))
    try:
        assert os.fstat(files[0]).st_ino == os.fstat(files[1]).st_ino
        fcntl.flock(files[0], fcntl.LOCK_EX)
        words = [lock_holders.busy(fd, "image", exclusive=True).why for fd in files]
        assert [f"by process {os.getpid()} of root" in word for word in words] == [True, False]
    finally:
        for place, fd in zip(places, files, strict=True):
            os.close(fd)
            syscalls.umount2(str(place), syscalls.MNT_DETACH)


def test_what_is_written_to_memory_is_gone(person: Person, bench: Bench, own: Path) -> None:
    for image in (own / "image.img", bench.tree):
        script = ": >/tmp/../new && rm /bin/cat && ls /new"
        done = person.singrun("exec", "--writable-tmpfs", image, "sh", "-c", script)
        if image != bench.tree or not person.uid:  # root's directory stays root's
            assert done.stdout == b"/new\n", done
    assert not (bench.tree / "new").exists()
    assert person.singrun("exec", own / "image.img", "ls", "/new").returncode == 1


def test_a_directory_laid_over_keeps_what_was_written(person: Person, own: Path) -> None:
    image, upper = own / "image.img", own / "upper"
    person.output("exec", "-o", upper, image, "sh", "-c", "echo kept >/etc/new; rm /bin/cat")
    script = "read x </etc/new; echo $x; [ -e /bin/cat ] || echo gone"
    assert person.output("exec", "--overlay", upper, image, "sh", "-c", script) == "kept\ngone\n"
    assert person.output("exec", "-o", f"{upper}:ro", image, "sh", "-c", script) == "kept\ngone\n"
    done = person.singrun("exec", "-o", f"{upper}:ro", image, "touch", "/x")
    assert b"Read-only file system" in done.stderr
    assert person.singrun("exec", image, "ls", "/etc/new").returncode == 1


def test_layers_lie_in_the_order_given(person: Person, own: Path) -> None:
    for name in ("one", "two"):
        (own / name).mkdir()
        (own / name / "which").write_text(name)
        (own / name / name).touch()
    options = ("-o", f"{own}/one:ro", "-o", f"{own}/two:ro", "-o", own / "upper")
    script = "read x </which; echo $x; ls -d /one /two; : >/three"
    output = person.output("exec", *options, own / "image.img", "sh", "-c", script)
    assert output.split() == ["two", "/one", "/two"] or output == "two/one\n/two\n"
    assert (own / "upper/upper/three").exists()


@pytest.fixture
def layer(person: Person, own: Path) -> Path:
    """An empty ext3 image of the person's own."""
    path = own / "layer.img"
    with path.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext3", path], check=True)
    os.chown(path, person.uid, person.gid)
    return path


def test_an_image_laid_over(person: Person, own: Path, layer: Path) -> None:
    """By the kernel for root, by fuse-overlayfs for a user."""
    script = "echo x >/etc/new; rm /bin/cat; mkdir /d; cd /d && echo y >deep; exit 3"
    done = person.singrun("exec", "-o", layer, own / "image.img", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (3, b""), done
    check(layer)  # all is written when singrun returns
    script = "read x </etc/new; read y </d/deep; echo $x$y; [ -e /bin/cat ] || echo gone"
    for word in (f"{layer}:ro", str(layer)):
        output = person.output("exec", "-o", word, own / "image.img", "sh", "-c", script)
        assert output == "xy\ngone\n"
    assert person.singrun("exec", own / "image.img", "ls", "/etc/new").returncode == 1
    images.wait_for_daemons(str(own))


def test_what_an_image_of_data_holds_belongs_to_who_made_it(person: Person, own: Path) -> None:
    """mke2fs records his number, which his launch's user namespace does not map."""
    tree, image = own / "tree", own / "mine.img"
    (tree / "upper/mine").mkdir(parents=True)
    (tree / "work").mkdir()
    secret = tree / "upper/mine/secret"
    secret.write_text("his\n")
    secret.chmod(0o600)
    subprocess.run(["chown", "-R", f"{person.uid}:{person.gid}", tree], check=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext3", "-d", tree, image, "8M"], check=True)
    os.chown(image, person.uid, person.gid)
    script = "cat /mine/secret; echo written >/mine/new"
    output = person.output("exec", "-o", image, own / "image.img", "sh", "-c", script)
    assert output == "his\n"
    script = "cat /data/*; echo more >>/data/secret"
    bind = f"{image}:/data:image-src=/upper/mine"
    output = person.output("exec", "-B", bind, own / "image.img", "sh", "-c", script)
    assert output == "written\nhis\n"
    check(image)
    images.wait_for_daemons(str(own))


def test_a_killed_writer_of_a_layer_leaves_it_whole(person: Person, own: Path, layer: Path) -> None:
    script = "i=0; while :; do i=$((i+1)); echo $i >/file-$i; [ $i != 20 ] || echo up; done"
    command = ("exec", "-o", layer, own / "image.img", "sh", "-c", script)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        person.words(person.launcher, *command), stdout=pipe, env=person.environment(), cwd="/"
    ) as child:
        assert child.stdout
        child.stdout.readline()
        child.kill()
    images.wait_for_daemons(str(own))
    person.output("exec", "-o", layer, own / "image.img", "ls", "/file-19")
    check(layer)
    done = person.singrun("exec", "-o", layer, "-p", own / "image.img", "sh", "-c", "exit 4")
    assert done.returncode == 4
    images.wait_for_daemons(str(own))


def test_a_host_without_fuse_overlayfs_says_what_would_help(bench: Bench) -> None:
    user = bench.people["user"]
    layer = Path(user.home) / "layer.img"
    shutil.copy(bench.image, layer)
    os.chown(layer, user.uid, user.gid)
    words = user.words(user.launcher, "exec", "-o", layer, bench.image, "true")
    hide = f"mount --bind {bench.directory / 'nothing'} $(command -v fuse-overlayfs)"
    (bench.directory / "nothing").touch()
    unshared = ["unshare", "-m", "sh", "-c", f'{hide}; exec "$@"', "sh"]
    done = subprocess.run(
        [*unshared, *words], env=user.environment(), cwd="/", capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"Install the package fuse-overlayfs" in done.stderr
    assert b"use a directory instead" in done.stderr
    images.wait_for_daemons(str(layer))
    layer.unlink()


def test_root_of_a_container_without_loop_devices_writes_to_an_image(bench: Bench) -> None:
    """By fuse-overlayfs, as a user: it mounts, but what fuse2fs serves the kernel cannot write."""
    root = bench.people["root, loop"]
    with shared_directory() as directory:
        layer = Path(shutil.copy(bench.image, directory / "layer.img"))
        for script, output in (("echo x >/new", b""), ("cat /new; id -u", b"x\n0\n")):
            words = root.words(root.launcher, "exec", "-o", layer, bench.image, "sh", "-c", script)
            done = subprocess.run(
                ["unshare", "-r", *words],
                env=root.environment(),
                cwd="/",
                capture_output=True,
                timeout=60 * PATIENCE,
                check=False,
            )
            assert (done.returncode, done.stdout) == (0, output), done
        images.wait_for_daemons(str(layer))


def test_a_fuse_overlayfs_that_ends_at_once_is_named(bench: Bench) -> None:
    user = bench.people["user"]
    with shared_directory() as directory:
        images.write_script(directory / "fuse-overlayfs", "#!/bin/sh\necho broken >&2\nexit 1\n")
        path = f"{directory}:{os.environ['PATH']}"
        words = ("exec", "-o", f"{bench.image}:ro", bench.image, "true")
        done = user.singrun(*words, env=user.environment() | {"PATH": path})
    assert done.returncode == 255
    assert b"Cannot read the overlay" in done.stderr
    assert b"fuse-overlayfs cannot mount an overlay. broken" in done.stderr
    assert b"use a directory instead." in done.stderr


def test_mount_points_appear_in_what_is_written_and_files_of_ours_do_not(
    person: Person, own: Path
) -> None:
    options = ("-o", own / "upper", "-B", "/etc:/made/deep", "--env", "A=b")
    output = person.output("exec", *options, own / "image.img", "sh", "-c", 'ls /made; echo "$A"')
    assert output == "deep\nb\n"
    assert (own / "upper/upper/made/deep").is_dir()
    assert not (own / "upper/upper/.singularity.d").exists()


def test_a_place_for_mounts_in_a_directory_of_the_host_that_nobody_bound_is_never_made(
    person: Person, own: Path
) -> None:
    """Although it lies in the same file system as the overlay that we may write to."""
    options = ("-o", own / "upper", "-B", f"/etc:{own}/upper/no/such")
    environment = person.environment() | {"TMPDIR": str(own)}
    done = person.singrun("exec", *options, own / "image.img", "true", env=environment)
    assert done.returncode == 255
    assert b"creates nothing" in done.stderr
    assert not (own / "upper/no").exists()


def test_nothing_of_ours_is_left_in_an_image_that_is_written(person: Person, own: Path) -> None:
    def names() -> str:
        return person.output("exec", "--no-home", "-c", image, "ls", "-R", "/home", "/etc", cwd="/")

    image = own / "image.img"
    before = names()
    options = ("-w", "-B", "/etc:/home/none/bound", "-S", "/scr", "-c")
    done = person.singrun("exec", *options, image, "sh", "-c", "ls -d /scr; : >/etc/new")
    assert done.returncode == 0
    output = done.stderr.decode()
    assert "Not mounted: bind /etc" in output
    assert "There is no /home/none/bound in the image: It is being written, and a place" in output
    assert "Not mounted: new tmpfs" in output
    assert names() == before.replace("localtime\n", "localtime\nnew\n")
    assert "new" in names()


def test_root_adds_users_to_the_image_that_he_writes(person: Person, own: Path) -> None:
    if person.uid:
        pytest.skip("users see themselves in passwd")
    script = "echo new:x:77:77::/:/bin/sh >>/etc/passwd.new; cat /etc/passwd >>/etc/passwd.new"
    image = own / "image.img"
    swap = f"{script}; /bin/busybox mv /etc/passwd.new /etc/passwd"
    person.output("exec", "-w", image, "sh", "-c", swap)
    assert "new:x:77:77" in person.output("exec", image, "cat", "/etc/passwd")


def test_what_cannot_be_written(person: Person, bench: Bench, own: Path) -> None:
    subprocess.run(["mksquashfs", bench.tree, own / "i.sqfs", "-quiet", "-no-progress"], check=True)
    image, upper = str(own / "image.img"), str(own / "upper")
    (own / "full").mkdir()
    (own / "full").chmod(0o777)
    (own / "full/notes.txt").touch()
    for words, needle in {
        ("-w", str(own / "i.sqfs")): b"--overlay DIR",
        ("-w", "--mount-with", "unpack", image): b"does not reach the image",
        ("-w", "--writable-tmpfs", image): b"Leave one of them out",
        ("-w", "-o", upper, image): b"Leave one of them out",
        ("-o", upper, "--writable-tmpfs", image): b"Two writable layers",
        ("-o", upper, "-o", f"{own}", image): b"Two writable layers",
        ("-o", "/no/such", image): b"make it first: mkdir /no/such",
        ("-o", str(own / "full"), image): b"It holds other files, such as notes.txt",
        ("-o", "/etc/passwd:ro", image): b"not an image",
        ("-w", "/no/such.img"): b"No such file",
    }.items():
        done = person.call(person.launcher, "exec", *words, "true")
        assert (done.returncode, done.stdout) == (255, b""), (words, done)
        assert needle in done.stderr, (words, done)
    if person.uid:
        done = person.singrun("exec", "-w", bench.image, "true")
        assert done.returncode == 255
        assert b"write permission" in done.stderr
    assert [each.name for each in (own / "full").iterdir()] == ["notes.txt"]
    check(own / "image.img")
