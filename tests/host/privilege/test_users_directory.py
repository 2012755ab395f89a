"""Root works in a directory of an ordinary user, who swaps files there meanwhile."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.builds import Build
from tests.bench.host import shared_directory

pytestmark = pytest.mark.root

# Puts a link in the place of each part file, of the tree in a part directory, or of the directory
# above, as soon as inotify(7) tells of what is named.
SWAP = """
import ctypes, os, struct, sys
directory, victim, mask, what = sys.argv[1], sys.argv[2], int(sys.argv[3], 0), sys.argv[4]
libc = ctypes.CDLL(None)
fd = libc.inotify_init()
libc.inotify_add_watch(fd, directory.encode(), mask)
print("watching", flush=True)
while True:
    data, at = os.read(fd, 1 << 16), 0
    while at < len(data):
        _, _, _, length = struct.unpack_from("iIII", data, at)
        name = data[at + 16 : at + 16 + length].rstrip(b"\\0").decode()
        at += 16 + length
        path = os.path.join(directory, name)
        if what == "above":
            path = directory
        if name.endswith(".part") and not os.path.islink(path):
            try:
                os.rename(path, path + ".saved")
                if what == "tree":
                    os.mkdir(path)
                    path += "/tree"
                os.symlink(victim, path)
                print("swapped", flush=True)
            except OSError:
                pass
"""
IN_CLOSE_WRITE, IN_CREATE, IN_MODIFY = 0x8, 0x100, 0x2
Done = subprocess.CompletedProcess[str]
RECIPE = "Bootstrap: busybox\n%post\n    echo hello > /hello\n"


@pytest.fixture(scope="module")
def account() -> Iterator[str]:
    with images.ordinary_user("swaps") as name:
        yield name


@pytest.fixture
def place(account: str) -> Iterator[Path]:
    """A directory of the user's."""
    with shared_directory() as directory:
        (directory / "theirs").mkdir()
        subprocess.run(["chown", account, directory / "theirs"], check=True)
        yield directory / "theirs"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    file = tmp_path / "victim"
    file.write_text("of root")
    file.chmod(0o600)
    return file


@contextlib.contextmanager
def swapping(
    account: str, place: Path, victim: Path, events: int, what: str = "file"
) -> Iterator[Callable[[], int]]:
    """Let the user swap; the function ends it and says how often it was done."""
    words = [images.PYTHON, "-c", SWAP, str(place), str(victim), hex(events), what]
    become = ["setpriv", "--reuid", account, "--clear-groups"]
    with subprocess.Popen([*become, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "watching\n"

        def swaps() -> int:
            process.kill()
            assert process.stdout
            return process.stdout.read().count("swapped")

        try:
            yield swaps
        finally:
            process.kill()


def is_untouched(victim: Path) -> bool:
    status = victim.lstat()
    facts = (victim.read_text(), status.st_mode & 0o7777, status.st_uid, status.st_nlink)
    return facts == ("of root", 0o600, 0, 1)


def until_swapped(
    account: str, place: Path, victim: Path, events: int, work: Callable[[], Done]
) -> Done:
    """Have root's work done until the user was in time, which a busy host may prevent."""
    for _ in range(20):
        with swapping(account, place, victim, events) as swaps:
            done = work()
            count = swaps()
        assert is_untouched(victim), done
        if count:
            return done
        assert done.returncode == 0, done
    raise AssertionError("the user was never in time")


@pytest.mark.parametrize("events", [IN_CREATE, IN_MODIFY, IN_CLOSE_WRITE])
@pytest.mark.parametrize(
    "words", [["copy", "out.img", "/etc/hostname", "/srv"], ["expand", "out.img"]]
)
def test_a_change_of_a_users_image(
    account: str, place: Path, victim: Path, singbuild: Build, words: list[str], events: int
) -> None:
    assert singbuild("create", "-s", "8", place / "out.img").returncode == 0
    subprocess.run(["chown", account, place / "out.img"], check=True)
    words = [str(place / word) if word == "out.img" else word for word in words]
    done = until_swapped(account, place, victim, events, lambda: singbuild(*words))
    assert done.returncode, done


@pytest.mark.parametrize("events", [IN_CREATE, IN_MODIFY, IN_CLOSE_WRITE])
@pytest.mark.parametrize("form", ["squashfs", "sif", "sif-ext3"])
def test_an_image_of_another_format(
    account: str,
    place: Path,
    victim: Path,
    singbuild: Build,
    recipe: Callable[[str], Path],
    form: str,
    events: int,
) -> None:
    assert singbuild("build", recipe(RECIPE), "a.img").returncode == 0
    words = ("convert", "-F", "--format", form, "a.img", str(place / "out"))
    done = until_swapped(account, place, victim, events, lambda: singbuild(*words))
    assert done.returncode, done


@pytest.mark.parametrize("what", ["tree", "above"])
@pytest.mark.parametrize("form", ["directory", "ext3", "sif"])
def test_a_directory_that_becomes_another(
    account: str,
    place: Path,
    tmp_path: Path,
    singbuild: Build,
    recipe: Callable[[str], Path],
    what: str,
    form: str,
) -> None:
    """Of the user's: the part directory, or the one that the target is named in."""
    if what == "tree" and form != "directory":
        pytest.skip("has a part file")
    assert singbuild("build", recipe(RECIPE), "a.img").returncode == 0
    directory = tmp_path / "of-root"
    directory.mkdir()
    (place / "at").mkdir()
    subprocess.run(["chown", account, place / "at"], check=True)
    for number in range(20):
        with swapping(account, place / "at", directory, IN_CREATE, what) as swaps:
            words = ("--format", form, "a.img", str(place / f"at/out{number}"))
            done = singbuild("convert", *words)
            count = swaps()
        assert [*directory.iterdir()] == [], done
        if count:
            return
    raise AssertionError("the user was never in time")


@pytest.mark.parametrize("events", [IN_CREATE, IN_MODIFY])
def test_a_build_whose_image_is_in_the_cache(
    account: str,
    place: Path,
    victim: Path,
    singbuild: Build,
    recipe: Callable[[str], Path],
    events: int,
) -> None:
    definition = recipe(RECIPE)
    done = singbuild("build", definition, place / "first.img")
    assert done.returncode == 0, done.stderr
    build = ("build", "-F", definition, place / "out.img")
    done = until_swapped(account, place, victim, events, lambda: singbuild(*build))
    assert done.returncode, done
    assert singbuild("build", definition, place / "again.img").returncode == 0
    assert singbuild("verify", place / "again.img").returncode == 0


def test_a_bootstrap_of_a_users_image(
    account: str, place: Path, victim: Path, singbuild: Build, recipe: Callable[[str], Path]
) -> None:
    image = place / "out.img"
    assert singbuild("create", "-s", "16", image).returncode == 0
    subprocess.run(["chown", account, image], check=True)
    image.chmod(0o4711)
    done = singbuild("bootstrap", image, recipe(RECIPE))
    assert done.returncode == 0, done.stderr
    assert (image.owner(), image.stat().st_mode & 0o7777) == (account, 0o711)
    again = ("bootstrap", image, recipe(RECIPE + "    echo more\n"))
    until_swapped(account, place, victim, IN_CREATE | IN_CLOSE_WRITE, lambda: singbuild(*again))


def test_a_cache_of_the_users_is_refused(
    account: str, place: Path, victim: Path, singbuild: Build, recipe: Callable[[str], Path]
) -> None:
    """One that the user has made, and one that is to be made where the user may rename it."""
    definition = recipe(RECIPE)
    (place / "theirs").mkdir()
    subprocess.run(["chown", account, place / "theirs"], check=True)
    for cache in (place / "theirs", place / "new"):
        environment = os.environ | {"SINGBUILD_CACHEDIR": str(cache)}
        for words in (["build", definition, "a.img"], ["lock", definition, "--output", "a.lock"]):
            done = singbuild(*words, env=environment)
            assert (done.returncode, "cannot be trusted" in done.stderr) == (5, True), done
    assert [path.name for path in place.iterdir()] == ["theirs"]
    assert list((place / "theirs").iterdir()) == []


def test_a_link_in_a_directory_of_all_is_not_followed(
    account: str, place: Path, victim: Path, singbuild: Build
) -> None:
    shared = place.parent / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    link = ["ln", "-s", str(victim), str(shared / "out.img")]
    subprocess.run(["setpriv", "--reuid", account, "--clear-groups", *link], check=True)
    done = singbuild("create", "-F", "-s", "8", shared / "out.img")
    assert (done.returncode, "another user's link" in done.stderr) == (8, True), done
    assert is_untouched(victim)
    link = ["ln", "-s", str(victim.parent), str(shared / "directory")]
    subprocess.run(["setpriv", "--reuid", account, "--clear-groups", *link], check=True)
    done = singbuild("create", "-s", "8", shared / "directory/new.img")
    assert (done.returncode, "another user's link" in done.stderr) == (8, True), done
    (shared / "of-root").symlink_to(place)
    done = singbuild("create", "-s", "8", shared / "of-root/new.img")
    assert (done.returncode, (place / "new.img").exists()) == (0, True), done
