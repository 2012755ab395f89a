"""One pull for a whole site: libraries, one puller at a time, the least recently used out first."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench import docker_images
from tests.bench.docker_registry import Faulty, faulty
from tests.bench.no_flock import refuse_flock
from tests.bench.singrun_images import ROOT

pytestmark = pytest.mark.root
PROGRAMS = ROOT / ".venv/bin"
MANY = 16


def result(text: bytes) -> docker_images.ContainerImage:
    busybox = Path(str(shutil.which("busybox"))).read_bytes()
    return docker_images.image(
        docker_images.archive(
            docker_images.file("bin/busybox", busybox, mode=0o755),
            *(docker_images.symlink(f"bin/{name}", "busybox") for name in ("sh", "cat")),
            docker_images.file("text", text),
        )
    )


@pytest.fixture
def server() -> Iterator[Faulty]:
    with faulty() as registry:
        registry.add(result(b"first\n"), "1")
        yield registry


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, a cache and a library of this test's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{PROGRAMS}:/usr/bin:/bin:/usr/sbin:/sbin")
    return tmp_path


def begun(*words: object, before: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
    program = str(PROGRAMS / str(words[0]))
    return subprocess.Popen(
        [program, *map(str, words[1:])], stdout=-1, stderr=-1, preexec_fn=before
    )


def output(process: subprocess.Popen[bytes]) -> bytes:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def call(*words: object) -> bytes:
    return output(begun(*words))


def layer_requests(server: Faulty) -> int:
    """How often the layer was asked for; it is the larger of the two blobs."""
    digest = max(server.blobs, key=lambda name: len(server.blobs[name]))
    return len(server.requests_to(f"/blobs/{digest}"))


@pytest.mark.slow("sixteen interpreters on two cores")
@pytest.mark.parametrize("before", [None, refuse_flock], ids=["flock", "no flock"])
def test_sixteen_starts_at_once_download_once(
    server: Faulty, place: Path, before: Callable[[], None] | None
) -> None:
    words = ("singrun", "exec", f"docker://{server.name}/lab/tool:1", "cat", "/text")
    started = [begun(*words, before=before) for _ in range(MANY)]
    assert [output(each) for each in started] == [b"first\n"] * MANY
    assert layer_requests(server) == 1
    assert len(server.requests_to("/manifests/")) == 1
    leftovers = [path for path in (place / "cache").rglob("*") if ".owner" in path.name]
    assert not leftovers


@pytest.mark.slow("sixteen builds on two cores")
def test_sixteen_pulls_to_files_of_their_own_fetch_each_layer_once(
    server: Faulty, place: Path
) -> None:
    name = f"docker://{server.name}/lab/tool:1"
    files = [place / f"{number}.img" for number in range(MANY)]
    for each in [begun("singbuild", "pull", name, file, before=refuse_flock) for file in files]:
        output(each)
    assert len({file.read_bytes() for file in files}) == 1
    assert layer_requests(server) == 1


def test_one_that_is_killed_leaves_its_work_to_the_next(server: Faulty, place: Path) -> None:
    def slow(handler: object) -> None:
        time.sleep(20)

    digest = max(server.blobs, key=lambda name: len(server.blobs[name]))
    server.behaviours[f"/blobs/{digest}"] = [slow]
    words = ("singbuild", "pull", "--once", f"docker://{server.name}/lab/tool:1")
    target = place / "cache/pulled/docker:tool/tool"
    first = begun(*words, target)
    while not layer_requests(server):
        time.sleep(0.05)
    waiting = begun(*words, target)
    time.sleep(1)
    server.behaviours.clear()
    first.kill()
    first.communicate()
    output(waiting)
    assert call("singrun", "exec", target, "cat", "/text") == b"first\n"
    assert {path.name for path in target.parent.iterdir()} == {"tool"}


def test_a_library_is_searched_first_and_names_are_short(server: Faulty, place: Path) -> None:
    library, source = place / "library", f"docker://{server.name}/lab/tool:1"
    library.mkdir()
    call("singbuild", "cache", "fill", library, f"tool={source}")
    count = len(server.requests)
    os.environ["SINGRUN_LIBRARY"] = str(library)
    try:
        assert call("singrun", "exec", source, "cat", "/text") == b"first\n"
        assert call("singrun", "exec", "tool", "cat", "/text") == b"first\n"
        assert len(server.requests) == count
        assert not (place / "cache/pulled").exists()
        call("singrun", "exec", "--fetch", source, "cat", "/text")
        assert len(server.requests) > count
        library.chmod(0o777)
        (place / "cache/pulled").rename(place / "gone")
        refused = begun("singrun", "exec", "tool", "true")
        assert b"everybody may write" in refused.communicate()[1]
    finally:
        del os.environ["SINGRUN_LIBRARY"]


def test_the_sites_file_names_the_library(server: Faulty, place: Path) -> None:
    site = place / "site.conf"
    site.write_text(f"image library = {place}/none:{place}/library\n")
    (place / "library").mkdir()
    call("singbuild", "cache", "fill", place / "library", f"tool=docker://{server.name}/lab/tool:1")
    done = subprocess.run(
        [PROGRAMS / "singrun", "exec", "tool", "cat", "/text"],
        env=os.environ | {"SINGRUN_CONFIG": str(site)},
        capture_output=True,
    )
    assert done.stdout == b"first\n", done.stderr


def test_filling_again_fetches_what_has_changed_only(server: Faulty, place: Path) -> None:
    library = place / "library"
    library.mkdir()
    words = ("singbuild", "cache", "fill", library, f"tool=docker://{server.name}/lab/tool:1")
    call(*words)
    (image,) = library.glob("docker:*/*")
    before = image.stat()
    call(*words)
    assert image.stat().st_ino == before.st_ino
    server.add(result(b"second\n"), "1")
    call(*words)
    assert image.stat().st_ino != before.st_ino
    assert call("singrun", "exec", library / "tool", "cat", "/text") == b"second\n"


def test_one_that_fails_is_told_and_the_others_come(server: Faulty, place: Path) -> None:
    library, name = place / "library", f"docker://{server.name}/lab"
    library.mkdir()
    server.behaviours["/none/"] = [lambda handler: handler.answer(404)]
    done = begun("singbuild", "cache", "fill", library, f"{name}/none:1", f"a={name}/tool:1")
    out, err = done.communicate()
    assert done.returncode == 6
    assert b"no such image" in out + err
    assert (library / "a").exists()


def test_the_least_recently_used_go_first(
    server: Faulty, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tag in ("2", "3"):
        server.add(result(tag.encode()), tag)
    name = f"docker://{server.name}/lab/tool"
    for tag in ("1", "2"):
        call("singrun", "exec", f"{name}:{tag}", "cat", "/text")
    one, two = sorted((place / "cache/pulled").iterdir())
    for directory, age in ((one, 200), (two, 300)):
        for path in (*directory.iterdir(), directory):
            os.utime(path, (time.time() - age,) * 2)
    used_bytes = sum(path.stat().st_blocks * 512 for path in one.iterdir())
    monkeypatch.setenv("SINGBUILD_CACHE_SIZE", f"{2 * used_bytes // 1024 + 100}K")
    call("singrun", "exec", f"{name}:1", "cat", "/text")  # used again
    call("singrun", "exec", f"{name}:3", "cat", "/text")
    assert one.exists()
    assert not two.exists()
