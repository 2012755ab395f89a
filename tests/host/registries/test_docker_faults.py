"""Whole builds from a registry that fails: the target stays, nothing half is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench.builds import SINGBUILD, Build
from tests.bench.docker_images import Entry, archive, file, hardlink, image, symlink
from tests.bench.docker_registry import Faulty, Handler, breaks_after, faulty, stalls_after, status
from tests.bench.host import PATIENCE, wait_until

pytestmark = pytest.mark.root
BUSYBOX = Path("/bin/busybox")
ARCHIVES = (
    archive(file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755), symlink("bin/sh", "busybox"))
    if BUSYBOX.exists()
    else archive(file("bin/sh", b"none", mode=0o755)),
    archive(file("text", b"here\n")),
)
IMAGE = image(*ARCHIVES)
BEFORE = b"hsqs: what was there before"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    with faulty() as server:
        server.add(IMAGE)
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "a.img"
    path.write_bytes(BEFORE)
    return path


def check_untouched(target: Path) -> None:
    assert target.read_bytes() == BEFORE
    assert not [*target.parent.glob(".*.part")]
    assert not [*(target.parent / "scratch").iterdir()]


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_signal_while_fetching_leaves_the_target_and_what_came(
    number: signal.Signals,
    status: int,
    server: Faulty,
    target: Path,
    singbuild: Build,
    recipe: Callable[[str], Path],
) -> None:
    server.behaviours[IMAGE.layers[0]] = [stalls_after(300_000)]
    result = recipe(f"Bootstrap: docker\nFrom: {server.name}/x\n")
    argv = [*SINGBUILD, "--force", str(result), "a.img"]
    process = subprocess.Popen(argv, cwd=target.parent, stdout=-1, stderr=-1)
    name = f"{IMAGE.layers[0].removeprefix('sha256:')}.part"
    while not any(p.stat().st_size >= 100_000 for p in target.parent.glob(f"cache/*/{name}")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=15 * PATIENCE)
    assert process.returncode == status
    if number == signal.SIGKILL:  # nobody was left to clean up but the next build
        assert target.read_bytes() == BEFORE
    else:
        check_untouched(target)
    del server.behaviours[IMAGE.layers[0]]
    done = singbuild("--force", result, "a.img")
    assert done.returncode == 0, done.stderr
    assert not [*(target.parent / "scratch").iterdir()]
    assert server.requests_to(IMAGE.layers[0])[-1]["range"].startswith("bytes=")


def test_a_cache_without_room_for_a_layer_leaves_the_target(
    server: Faulty, target: Path, singbuild: Build, recipe: Callable[[str], Path]
) -> None:
    """In a file system of its own, which goes with the mount namespace of this build."""
    cache, scratch = target.parent / "cache", target.parent / "scratch"
    cache.mkdir()
    server.add(image(*ARCHIVES, archive(file("more", os.urandom(3 << 20)))))
    result = recipe(f"Bootstrap: docker\nFrom: {server.name}/x\n")
    script = f'mount -t tmpfs -o size=3M,mode=700 none {cache} && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", *SINGBUILD, "--force", str(result)]
    argv += ["--no-cache", "a.img"]
    environment = os.environ | {"SINGBUILD_TMPDIR": str(scratch)}
    done = subprocess.run(argv, cwd=target.parent, capture_output=True, text=True, env=environment)
    assert done.returncode == 5, done.stderr
    assert "No space left on device" in done.stderr
    assert str(cache) in done.stderr
    check_untouched(target)
    assert singbuild("--force", result, "a.img").returncode == 0


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([file("a"), file("../evil")], "../evil: cannot be unpacked"),
        ([hardlink("a", "../../../../etc/passwd")], "a: cannot be unpacked"),
        ([symlink("up", "../../.."), file("up/../../evil")], "up/../../evil: cannot be unpacked"),
        ([file(f"many/{number}") for number in range(3000)], "SINGBUILD_UNPACK_ENTRIES"),
        ([file("large", bytes(3_000_000))], "SINGBUILD_UNPACK_BYTES"),
    ],
)
def test_a_hostile_image_is_refused_and_leaves_the_target(
    entries: list[Entry],
    says: str,
    server: Faulty,
    target: Path,
    singbuild: Build,
    recipe: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SINGBUILD_UNPACK_ENTRIES", "2000")
    monkeypatch.setenv("SINGBUILD_UNPACK_BYTES", "4000000")
    result = image(*ARCHIVES, archive(*entries))
    server.add(result)
    done = singbuild("--force", recipe(f"Bootstrap: docker\nFrom: {server.name}/x\n"), "a.img")
    assert done.returncode == 6, done.stderr
    assert says in done.stderr
    assert f"layer {result.layers[-1]}" in done.stderr
    check_untouched(target)
    assert not [*target.parent.rglob("evil")]


@pytest.mark.parametrize(
    ("part", "code", "says"),
    [
        ("/manifests/", 404, "no such image"),
        ("/manifests/", 401, "does not let us have it"),
        (IMAGE.layers[1], 403, "does not let us have it"),
        (IMAGE.layers[1], 404, "has lost"),
    ],
)
def test_a_registry_that_refuses_leaves_the_target(
    part: str,
    code: int,
    says: str,
    server: Faulty,
    target: Path,
    singbuild: Build,
    recipe: Callable[[str], Path],
) -> None:
    server.behaviours[part] = [status(code)]
    done = singbuild("--force", recipe(f"Bootstrap: docker\nFrom: {server.name}/x\n"), "a.img")
    assert done.returncode == 6
    assert says in done.stderr
    check_untouched(target)


def test_a_registry_that_vanishes_between_manifest_and_layers(
    server: Faulty, target: Path, singbuild: Build, recipe: Callable[[str], Path]
) -> None:
    more = archive(file("more", os.urandom(600_000)))
    result = image(*ARCHIVES, more, archive(file("last")))
    first, second, half, none = (name.removeprefix("sha256:") for name in result.layers)
    cache = target.parent / "cache"

    def breaks(handler: Handler) -> None:
        wait_until(lambda: all([*cache.rglob(each)] for each in (first, second)))
        handler.server.vanish()
        breaks_after(400_000)(handler)

    def says_nothing(handler: Handler) -> None:
        wait_until(lambda: bool([*cache.rglob(f"{half}.part")]))
        handler.close_connection = True

    server.add(result)
    server.behaviours = {half: [breaks], none: [says_nothing]}
    text = recipe(f"Bootstrap: docker\nFrom: {server.name}/x\n")
    done = singbuild("--force", text, "a.img")
    assert done.returncode == 6
    assert f"{server.name} refuses connections" in done.stderr
    check_untouched(target)
    (part,) = cache.rglob(f"{half}.part")
    arrived = part.stat().st_size
    assert 0 < arrived <= 400_000
    assert not [*cache.rglob(f"{none}*")]
    with faulty(server.server_address[1]) as back:
        back.add(result)
        done = singbuild("--force", text, "a.img")
        assert done.returncode == 0, done.stderr
        fetched = [path for path, _ in back.requests if "/blobs/" in path]
        assert sorted(fetched) == sorted(f"/v2/x/blobs/sha256:{each}" for each in (half, none))
        assert back.requests_to(half)[0]["range"] == f"bytes={arrived}-"
    assert target.read_bytes() != BEFORE


def test_offline_what_was_fetched_before_is_enough(
    server: Faulty, singbuild: Build, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    result = recipe(f"Bootstrap: docker\nFrom: {server.name}/x\n")
    refused = singbuild("build", "--offline", result, "a.img")
    assert refused.returncode == 6
    assert "SINGBUILD_OFFLINE" in refused.stderr
    assert not server.requests
    assert singbuild(result, "a.img").returncode == 0
    count = len(server.requests)
    done = singbuild("build", "--offline", "--no-cache", result, "b.img")
    assert done.returncode == 0, done.stderr
    pulled = singbuild("pull", "--offline", f"docker://{server.name}/x", "c.img")
    assert pulled.returncode == 0, pulled.stderr
    assert len(server.requests) == count
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()
