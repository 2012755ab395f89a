"""Whatever writes a seal, a cache or a site is killed at random moments, alone and beside others.

What others read is whole at each moment, who lives goes on, and the next command works.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bench import docker_images
from tests.bench.builds import SINGBUILD
from tests.bench.docker_registry import genuine, push
from tests.bench.host import random_numbers, wait_until
from tests.host.hub.test_hub import FILES, Hub
from tests.long.faults.test_builds import (
    CACHED,
    ROUNDS,
    Place,
    kill,
    old_image,
    processes_of,
    reference,
)

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.timeout(0)]
pytestmark += [pytest.mark.slow("200 of each")]

FORMATS = ("ext3", "sif", "squashfs")
LARGE = "Bootstrap: busybox\n%files\n    content /opt/content\n"


def test_seals_that_are_killed(tmp_path: Path) -> None:
    """The target is the old file or the new one, of each kind."""
    numbers, counts, place = random_numbers(), Counter[str](), Place.at(tmp_path, LARGE)
    (tmp_path / "content").write_bytes(numbers.randbytes(24 << 20))
    old = old_image(place)
    expected, seconds = {}, {}
    for kind in FORMATS:
        began = time.monotonic()
        status, messages = place.build("a.img", "--no-cache", "--format", kind)
        assert status == 0, messages
        seconds[kind] = time.monotonic() - began
        expected[kind] = (tmp_path / "a.img").read_bytes()
    for number in range(ROUNDS):
        kind = FORMATS[number % len(FORMATS)]
        (tmp_path / "a.img").write_bytes(old)
        words = ("--no-cache", "--format", kind)
        status = kill(place, "seal", numbers, *words, most=seconds[kind])
        counts[f"{kind}: {'killed' if status else 'was done before'}"] += 1
        assert (tmp_path / "a.img").read_bytes() in (old, expected[kind]), kind
        wait_until(lambda: not processes_of(place))
        if number % 10 == 9:
            assert place.build("a.img", *words)[0] == 0
            assert (tmp_path / "a.img").read_bytes() == expected[kind]
            assert place.left() == []
    print(f"{ROUNDS} seals:", dict(counts))
    assert counts.total() // 4 < sum(n for name, n in counts.items() if name.endswith("killed"))


def entries(cache: Path) -> int:
    """Return how many snapshots a cache has. Each has to be whole, of what its note says."""
    count = 0
    for note in (cache / "stages").glob("*.json"):
        image = note.with_suffix(".img")
        if image.exists():
            digest = hashlib.sha256(image.read_bytes()).hexdigest()
            assert digest == json.loads(note.read_text())["sha256"]
            count += 1
    return count


def test_writers_of_the_cache_that_are_killed(tmp_path: Path) -> None:
    place = Place.at(tmp_path, CACHED)
    numbers, counts, expected, whole = random_numbers(), Counter[str](), reference(place), 0
    phases = ("bootstrap", "files", "post", "seal", "finish")
    for number in range(ROUNDS):
        if number % 2:
            shutil.rmtree(place.cache / "stages", ignore_errors=True)
        phase = phases[number % len(phases)]
        status = kill(place, phase, numbers)
        counts[f"{phase}: {'killed' if status else 'was done before'}"] += 1
        wait_until(lambda: not processes_of(place))
        whole += entries(place.cache)
        if number % 10 == 9:
            status, messages = place.build()
            assert status == 0, messages
            assert (tmp_path / "a.img").read_bytes() == expected
            assert place.left() == []
    print(f"{ROUNDS} writers of a cache, which had {whole} whole entries then:", dict(counts))


def begun(words: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    out = subprocess.PIPE
    return subprocess.Popen(words, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True)


def test_pullers_of_one_cache_of_whom_some_are_killed(tmp_path: Path) -> None:
    numbers, killed, ended = random_numbers(), 0, 0
    names = ("scratch", "cache", "registry", "state", "targets")
    places = {name: tmp_path / name for name in names}
    for place in places.values():
        place.mkdir()
    environment = os.environ | {
        "SINGBUILD_TMPDIR": str(places["scratch"]),
        "SINGBUILD_CACHEDIR": str(places["cache"]),
        "XDG_STATE_HOME": str(places["state"]),
    }
    files = [docker_images.file(f"f{n}", numbers.randbytes(1 << 20)) for n in range(8)]
    with genuine(places["registry"]) as server:
        push(docker_images.image(docker_images.archive(*files)), server, "lab/tool", "1")
        words = [*SINGBUILD, "pull", "--force", f"docker://{server}/lab/tool:1"]

        def pull(target: str) -> subprocess.Popen[str]:
            return begun([*words, str(places["targets"] / target)], environment)

        began = time.monotonic()
        assert pull("whole").wait() == 0
        usual = time.monotonic() - began
        expected = (places["targets"] / "whole").read_bytes()
        for _ in range(max(1, ROUNDS // 4)):
            shutil.rmtree(places["cache"], ignore_errors=True)
            pulls = [pull(str(number)) for number in range(4)]
            for each in pulls:
                time.sleep(numbers.random() * usual / 2)
                if numbers.random() < 0.6:
                    each.send_signal(signal.SIGKILL)
            for number, each in enumerate(pulls):
                messages = each.communicate()[0]
                assert each.returncode in (0, -signal.SIGKILL), messages
                killed += each.returncode != 0
                ended += each.returncode == 0
                target = places["targets"] / str(number)
                assert not target.exists() or target.read_bytes() == expected
                if each.returncode:
                    assert pull(str(number)).wait() == 0
                assert target.read_bytes() == expected
            assert list(tmp_path.rglob("*.part")) == []
            assert [*places["scratch"].iterdir()] == []
    print(f"pulls into one cache: {killed} killed, {ended} others got the whole image")


TAGS = ("Singularity", "Singularity.base", "Singularity.child", "tools/copy.def", "tools/data.txt")


def test_hubs_of_one_cache_of_which_some_are_killed(tmp_path: Path) -> None:
    """Several at once write one site out of one cache: it is sound, and as if one had built it."""
    hub, numbers, killed, ended = Hub(tmp_path / "hub"), random_numbers(), 0, 0
    hub.commit({name: FILES[name] for name in TAGS})
    environment = os.environ | {"SINGBUILD_CACHEDIR": str(tmp_path / "cache")}
    began = time.monotonic()
    assert hub.build("site", cache="../cache")[0] == 0
    usual = time.monotonic() - began
    rounds = max(1, ROUNDS // 8)
    for number in range(rounds):
        base = FILES["Singularity.base"].replace("echo base", f"echo {number}")
        hub.commit({"tools/data.txt": f"{number}\n", "Singularity.base": base})
        site = hub.directory / "site"
        words = hub.command("build", "--jobs", "2", str(hub.repository), str(site))
        hubs = [begun(words, environment) for _ in range(3)]
        for each in hubs:
            time.sleep(numbers.random() * usual / 2)
            if numbers.random() < 0.66:
                each.send_signal(signal.SIGKILL)
        for each in hubs:
            messages = each.communicate()[0]
            assert each.returncode in (0, -signal.SIGKILL), messages
            killed += each.returncode != 0
            ended += each.returncode == 0
        status, messages = hub.build("site", cache="../cache")
        assert status == 0, messages
        checked = subprocess.run(hub.command("check", str(site)), capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert list(site.rglob("*.part")) == []
        entries(tmp_path / "cache")
        if number % 5 == 0:
            assert hub.build("alone", cache="../alone")[0] == 0
            names = {build["key"] for build in hub.collection("alone").values()}
            for name in names:
                same = [hub.directory / there / f"images/{name}.sif" for there in ("site", "alone")]
                assert len({path.read_bytes() for path in same}) == 1, name
    print(f"hubs of one cache: {killed} killed, {ended} others ended, {rounds} sites sound")
