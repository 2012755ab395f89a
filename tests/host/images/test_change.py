"""Images that change: as root and as an ordinary user, and what is left when it goes wrong."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from singbuild.console.display import Console
from singbuild.errors import ImageError
from singbuild.ext3.reader.disk import HEADER_2X
from singbuild.ext3.reader.image import Image
from singbuild.images import incoming
from singbuild.tree.rootfs import Rootfs
from tests.bench import docker_images, installation
from tests.bench import singrun_images as images
from tests.bench.builds import SINGBUILD, Build
from tests.bench.host import random_numbers, shared_directory, swapped
from tests.bench.singrun_images import ROOT, Person

pytestmark = pytest.mark.root
EPOCH = "1700000000"
BUSYBOX = str(ROOT / "recipes/busybox.def")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_sound(image: Path) -> None:
    done = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def names(image: Path) -> dict[str, tuple[int, int, int]]:
    with Image(image) as opened:
        return {
            os.fsdecode(entry.path): (entry.inode.mode, entry.inode.uid, entry.inode.gid)
            for entry in opened.walk()
        }


@pytest.fixture
def image(singbuild: Build, tmp_path: Path) -> Path:
    """An image of 32 MiB with busybox in it."""
    assert singbuild("create", "-q", "-s", "32", "a.img").returncode == 0
    done = singbuild("bootstrap", "a.img", BUSYBOX)
    assert done.returncode == 0, done.stderr
    return tmp_path / "a.img"


@pytest.mark.parametrize("size", [6, 16, 129, 768])
def test_an_empty_image_has_the_size_asked_for(size: int, singbuild: Build, tmp_path: Path) -> None:
    done = singbuild("create", "--size", str(size), "a.img")
    assert done.returncode == 0, done.stderr
    file = tmp_path / "a.img"
    assert abs(file.stat().st_size - (size << 20)) <= 1 << 20
    assert file.stat().st_blocks * 512 < 1 << 20
    check_sound(file)
    script = f"mount -o loop {file} /mnt && touch /mnt/x && umount /mnt"
    subprocess.run(["unshare", "-m", "sh", "-c", script], check=True)
    check_sound(file)
    assert singbuild("create", "a.img").returncode == 8
    assert singbuild("create", "-F", "-s", "8", "a.img").returncode == 0
    assert singbuild("create", "-s", "1", "b.img").returncode == 8
    assert not (tmp_path / "b.img").exists()


def test_a_bootstrap_in_place_keeps_the_size_and_goes_on_top(
    image: Path, singbuild: Build, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    assert image.stat().st_size == 32 << 20
    assert singbuild("verify", "a.img").returncode == 0
    post = "%post\n    echo more > /more; touch /tmp/x\n"
    on_top = recipe(f"{post}%test\n    echo fine\n%labels\n    Maker me\n")
    done = singbuild("bootstrap", "a.img", on_top)
    assert (done.returncode, done.stdout.splitlines()[-2:]) == (0, ["fine", "Done."]), done.stderr
    assert {"more", "bin/busybox"} <= names(image).keys()
    output = singbuild("inspect", "--json", "a.img").stdout
    assert '"Maker": "me"' in output
    assert '"Title": "Hello from busybox"' in output
    before = digest(image)
    failing = recipe("%post\n    false\n", "failing.def")
    done = singbuild("bootstrap", "a.img", failing)
    assert done.returncode == 7
    assert digest(image) == before
    done = singbuild("bootstrap", "a.img")
    assert done.returncode == 0, done.stderr
    assert "GREETING_FILE" in singbuild("inspect", "--runscript", "a.img").stdout
    assert "more" in names(image)
    check_sound(image)


def test_copies_take_cps_options(image: Path, singbuild: Build, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("#!/bin/sh\necho hi\n")
    script.chmod(0o750)
    os.chown(script, 5, 6)
    assert singbuild("copy", "a.img", "script.py", "/usr/bin/").returncode == 0
    assert singbuild("copy", "a.img", "-a", "script.py", "/srv/kept").returncode == 0
    result = names(image)
    assert result["usr/bin/script.py"] == (0o100750, 0, 0)
    assert result["srv/kept"] == (0o100750, 5, 6)
    before = digest(image)
    for words, status in (
        (("-t", "/srv", "script.py", "x"), 2),
        (("--parents", "script.py", "/srv"), 2),
        (("nothing.here", "/srv"), 8),
        (("script.py", "/no/such/place/"), 8),
        (("script.py",), 2),
    ):
        done = singbuild("copy", "a.img", *words)
        assert done.returncode == status, (words, done.stderr)
    assert digest(image) == before
    output = singbuild("copy", "a.img", "script.py", "/opt/none/").stderr
    assert "the image has no directory /opt/none/" in output
    check_sound(image)


def test_a_link_in_the_image_leads_no_copy_out_of_it(
    image: Path, singbuild: Build, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("untouched")
    links = docker_images.archive(
        docker_images.symlink("srv/file", f"{outside}/file"),
        docker_images.symlink("srv/directory", str(outside)),
    )
    (tmp_path / "links.tar").write_bytes(links)
    assert singbuild("import", "a.img", "links.tar").returncode == 0
    (tmp_path / "srv/directory").mkdir(parents=True)
    (tmp_path / "srv/directory/new").write_text("new")
    (tmp_path / "file").write_text("new")
    assert singbuild("copy", "a.img", "file", "/srv/").returncode == 0
    singbuild("copy", "a.img", "-r", "srv", "/")  # a directory onto a link: cp refuses
    assert singbuild("copy", "a.img", "file", "/srv/directory/").returncode == 8
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "untouched"


def test_a_link_that_is_swapped_in_leads_no_copy_out(tmp_path: Path) -> None:
    outside, source, tree = (tmp_path / name for name in ("outside", "source", "tree"))
    for directory in (outside, source / "sub", tree / "to/sub"):
        directory.mkdir(parents=True)
    for number in range(300):
        (source / "sub" / str(number)).write_text("new")
    (tree / "link").symlink_to(outside)
    rootfs = Rootfs(tree, Console(io.StringIO()))
    with swapped(tree / "to/sub", tree / "link"):
        for _ in range(20):
            with contextlib.suppress(ImageError):
                incoming.copy(rootfs, ["-r"], [f"{source}/sub"], "/to/", as_root=True)
    assert [*outside.iterdir()] == []
    incoming.copy(rootfs, ["-r"], [f"{source}/sub"], "/fresh", as_root=True)
    assert len([*(tree / "fresh").iterdir()]) == 300


def test_copies_come_from_memory_too(image: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        Path(memory, "file").write_text("file")
        words = [*SINGBUILD, "copy", str(image), "file", "/srv/"]
        assert subprocess.run(words, cwd=memory).returncode == 0
    assert "srv/file" in names(image)


def archive_of_everything() -> bytes:
    """Owners, a device, a sparse file, hard links, an attribute, odd names."""
    sparse = docker_images.file("sparse", bytes(1 << 20) + b"end", uid=7)
    device = docker_images.entry("dev/mine", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o640)
    other = docker_images.entry("dev/other", tarfile.CHRTYPE, devmajor=1, devminor=3)
    attribute = docker_images.file("attributed", b"x")
    attribute[0].pax_headers = {"SCHILY.xattr.user.colour": "blue"}
    return docker_images.archive(
        docker_images.directory("var/mail", uid=8, gid=8, mode=0o2775),
        docker_images.file("bin/elevated", b"x", mode=0o4755, gid=42),
        docker_images.hardlink("bin/again", "bin/elevated", gid=42),
        docker_images.file("name\nwith newline", b"y", uid=100_000, gid=100_000),
        docker_images.symlink("link", "/etc/passwd", uid=9),
        sparse,
        device,
        other,
        docker_images.file("other", b"x", uid=7, gid=7),
        attribute,
    )


@pytest.fixture
def user() -> Iterator[str]:
    with images.ordinary_user() as name:
        yield name


@pytest.fixture(scope="module")
def everybodys() -> Iterator[Path]:
    """A directory of everybody's, with singbuild as everybody may execute it."""
    with shared_directory() as directory:
        (directory / "venv").symlink_to(installation.programs().parent)
        yield directory


def test_an_ordinary_user_gets_roots_image(everybodys: Path, user: str) -> None:
    (everybodys / "all.tar").write_bytes(archive_of_everything())
    digests = set()
    command = everybodys / "venv/bin/singbuild"
    for name in ("root", user):
        person = Person(name, command)
        place = everybodys / name
        place.mkdir()
        shutil.chown(place, name, person.gid)
        env = person.environment() | {"SOURCE_DATE_EPOCH": EPOCH, "SINGBUILD_TMPDIR": str(place)}
        file = place / "a.img"
        for words in (
            ("create", "-q", "-s", "16", file),
            ("import", file, everybodys / "all.tar"),
            ("copy", file, everybodys / "all.tar", "/bin/"),
            ("copy", file, everybodys / "all.tar", "/other"),
            ("copy", file, everybodys / "all.tar", "/dev/other"),
            ("expand", "-s", "8", file),
        ):
            done = person.call(command, *words, env=env)
            assert done.returncode == 0, (name, words, done.stderr)
        check_sound(file)
        assert file.stat().st_uid == person.uid
        digests.add(digest(file))
        result = names(file)
        assert result["var/mail"] == (0o042775, 8, 8)
        assert result["bin/elevated"] == (0o104755, 0, 42)
        assert result["dev/mine"] == (0o020640, 0, 0)
        for path in ("other", "dev/other"):  # written anew, which recorded owners may not survive
            assert result[path] == (0o100644, 0, 0)
        assert result["name\nwith newline"][1:] == (100_000, 100_000)
        assert sorted(path.name for path in place.iterdir()) == ["a.img"]
    if len(digests) != 1:
        pair = [str(everybodys / name / "a.img") for name in ("root", user)]
        pytest.fail(
            subprocess.run(
                [*SINGBUILD, "diff", "--times", *pair], capture_output=True, text=True
            ).stdout
        )


def test_images_grow_and_shrink(image: Path, singbuild: Build) -> None:
    content = names(image)
    assert singbuild("expand", "a.img").returncode == 0
    assert image.stat().st_size == (32 + 512) << 20
    check_sound(image)
    assert singbuild("shrink", "--free", "4M", "a.img").returncode == 0
    assert image.stat().st_size < 24 << 20
    assert singbuild("shrink", "a.img").returncode == 0
    assert image.stat().st_size < 12 << 20
    assert names(image) == content
    check_sound(image)


def test_an_image_that_is_full_says_so(image: Path, singbuild: Build, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(40 << 20))
    before = digest(image)
    done = singbuild("copy", "a.img", "large", "/srv")
    assert done.returncode == 8
    assert "full" in done.stderr
    assert "expand" in done.stderr
    assert digest(image) == before


def test_a_2x_image_stays_one(image: Path, singbuild: Build, tmp_path: Path) -> None:
    header = HEADER_2X + b"\n"
    old = tmp_path / "old.img"
    old.write_bytes(header + image.read_bytes())
    (tmp_path / "file").write_text("x")
    for words in (
        ("copy", "old.img", "file", "/srv/"),
        ("expand", "-s", "8", "old.img"),
        ("bootstrap", "old.img"),
    ):
        done = singbuild(*words)
        assert done.returncode == 0, done.stderr
        assert old.read_bytes()[:31] == header
    assert old.stat().st_size == 31 + (40 << 20)
    assert "srv/file" in names(old)
    (tmp_path / "bare").write_bytes(old.read_bytes()[31:])
    check_sound(tmp_path / "bare")


def test_mode_and_owner_of_the_file_stay(image: Path, singbuild: Build) -> None:
    image.chmod(0o640)
    os.chown(image, 12, 34)
    assert singbuild("expand", "-s", "1", "a.img").returncode == 0
    assert singbuild("bootstrap", "a.img").returncode == 0
    status = image.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o640, 12, 34)


def test_who_holds_an_image_is_named(image: Path, singbuild: Build) -> None:
    waiting = ("sh", "-c", "echo up; exec sleep 60")
    argv = [sys.executable, "-m", "singrun", "exec", str(image), *waiting]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as reader:
        assert reader.stdout
        assert reader.stdout.readline() == b"up\n"
        done = singbuild("expand", "a.img")
        reader.terminate()
    assert done.returncode == 8
    assert f"process {reader.pid}" in done.stderr


def test_damaged_and_foreign_files_are_refused(
    image: Path, singbuild: Build, tmp_path: Path
) -> None:
    (tmp_path / "garbage").write_bytes(os.urandom(1 << 16))
    (tmp_path / "cut.img").write_bytes(image.read_bytes()[: 1 << 20])
    for name in ("garbage", "cut.img", "no.img", "scratch"):
        for verb in ("expand", "shrink", "bootstrap"):
            done = singbuild(verb, name)
            assert done.returncode in (3, 8), (verb, name, done.stderr)
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_ended_change_leaves_the_old_image(
    number: signal.Signals, image: Path, singbuild: Build, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(os.urandom(16 << 20))
    before = digest(image)
    for delay in (0.3, 0.5, 0.7):
        argv = [*SINGBUILD, "copy", "a.img", "large", "/srv/"]
        with subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
            time.sleep(delay)
            process.send_signal(number)
        if digest(image) != before:  # it was quicker: then it is the whole new one
            assert "srv/large" in names(image)
            check_sound(image)
            break
    assert singbuild("copy", "a.img", "large", "/srv/").returncode == 0  # and sweeps
    names_there = sorted(path.name for path in tmp_path.iterdir() if path.name != "singbuild0")
    assert names_there == ["a.img", "large", "scratch"]
    assert not [*(tmp_path / "scratch").iterdir()]
    check_sound(image)


def test_random_sequences_end_as_the_model_says(singbuild: Build, tmp_path: Path) -> None:
    check_sequences(8, singbuild, tmp_path)


def check_sequences(count: int, singbuild: Build, tmp_path: Path) -> None:
    """Compare what sequences of changes make with the names and texts that there should be."""
    chance = random_numbers(7)
    for _ in range(count):
        assert singbuild("create", "-q", "-F", "-s", "16", "a.img").returncode == 0
        shell = docker_images.file("bin/sh", Path("/bin/busybox").read_bytes(), mode=0o755)
        content: dict[str, bytes] = {}
        first = docker_images.archive(docker_images.directory("srv"), shell)
        (tmp_path / "a.tar").write_bytes(first)
        assert singbuild("import", "a.img", "a.tar").returncode == 0
        for _ in range(chance.randint(1, 3)):
            name, data = f"f{chance.randint(1, 3)}", chance.randbytes(chance.randint(0, 9000))
            match chance.choice(("copy", "import", "expand", "shrink", "write")):
                case "copy":
                    (tmp_path / name).write_bytes(data)
                    assert singbuild("copy", "a.img", name, "/srv/").returncode == 0
                    content[name] = data
                case "import":
                    archive = docker_images.archive(docker_images.file(f"srv/{name}", data))
                    (tmp_path / "a.tar").write_bytes(archive)
                    assert singbuild("import", "a.img", "a.tar").returncode == 0
                    content[name] = data
                case "write":
                    script = f"printf written > /srv/{name}"
                    argv = [sys.executable, "-m", "singrun", "exec", "-w", "a.img", "sh", "-c"]
                    subprocess.run([*argv, script], cwd=tmp_path, check=True)
                    content[name] = b"written"
                case "shrink":
                    assert singbuild("shrink", "--free", "2M", "a.img").returncode == 0
                case verb:
                    assert singbuild(verb, "-s", "4", "a.img").returncode == 0
        check_sound(tmp_path / "a.img")
        with Image(tmp_path / "a.img") as opened:
            result = opened.find(b"srv")
            assert result
            inside = {os.fsdecode(e.path)[4:]: opened.read(e) for e in opened.listed(result)}
        assert inside == content
