"""Stages of builds in a registry: any machine begins after what another has finished."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.bench.builds import SINGBUILD
from tests.bench.docker_registry import genuine

pytestmark = pytest.mark.root
RECIPE = """Bootstrap: busybox
%post
    echo one > /one
    export KEPT=kept
%post
    echo "two $KEPT" > /two
"""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "registry").mkdir()
    with genuine(tmp_path / "registry") as name:
        yield name


class Machine:
    """A place with a cache of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        (place / "scratch").mkdir()
        self.environment = os.environ | {
            "HOME": str(place),
            "SINGBUILD_CACHEDIR": str(place / "cache"),
            "SINGBUILD_TMPDIR": str(place / "scratch"),
            "XDG_STATE_HOME": str(place / "state"),
        }

    def build(self, text: str, *words: str, status: int = 0) -> list[dict[str, Any]]:
        """Build the recipe; return the events."""
        (self.place / "r.def").write_text(text)
        done = subprocess.run(
            [*SINGBUILD, "build", "--json", "--force", *words, "r.def", "r.img"],
            env=self.environment, cwd=self.place, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def image(self) -> str:
        return hashlib.sha256((self.place / "r.img").read_bytes()).hexdigest()


def phases(events: list[dict[str, Any]]) -> set[str]:
    return {each["name"] for each in events if each["event"] == "phase"}


def texts(events: list[dict[str, Any]]) -> str:
    return "\n".join(str(each.get("text", "")) for each in events)


@pytest.fixture
def machines(tmp_path: Path) -> tuple[Machine, Machine]:
    return Machine(tmp_path / "one"), Machine(tmp_path / "two")


def test_another_machine_takes_the_finished_image(
    registry: str, machines: tuple[Machine, Machine]
) -> None:
    one, two = machines
    place = f"oras://{registry}/lab/cache"
    assert "post" in str(phases(one.build(RECIPE, "--cache-to", place)))
    events = two.build(RECIPE, "--cache-from", place)
    assert not {"bootstrap", "post-1", "seal"} & phases(events), events
    assert one.image() == two.image()


def test_a_changed_recipe_begins_after_the_longest_prefix(
    registry: str, machines: tuple[Machine, Machine]
) -> None:
    one, two = machines
    place = f"oras://{registry}/lab/cache"
    one.build(RECIPE, "--cache-to", place)
    changed = RECIPE.replace("two $KEPT", "other $KEPT")
    events = two.build(changed, "--cache-from", place, "--cache-to", place)
    assert "bootstrap" not in phases(events)
    assert "taken from oras://" in texts(events)
    two.build(changed.replace("/two", "/2"), "--cache-from", place)
    export = subprocess.run(
        [*SINGBUILD, "export", two.place / "r.img"], capture_output=True, check=True
    )
    assert b"other kept" in export.stdout  # the shell's variables came along
    one.build(changed)
    two.build(changed)
    assert one.image() == two.image()


def test_a_pinned_list_is_all_that_is_trusted(
    registry: str, machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    one, two = machines
    place = f"oras://{registry}/lab/cache"
    output = texts(one.build(RECIPE, "--cache-to", place))
    result = re.search(r"oras://\S+@sha256:[0-9a-f]{64}", output)
    assert result, output
    other = RECIPE.replace("two $KEPT", "changed")
    one.build(other, "--cache-to", place)
    two.build(other, "--cache-from", result[0])  # its last step is in no pinned list
    assert phases(two.build(RECIPE, "--cache-from", result[0])) & {"post-2"} == set()
    third = Machine(tmp_path / "three")
    assert "post-2" in phases(third.build(other, "--cache-from", result[0]))


def test_what_is_no_stage_is_told_and_the_build_goes_on(
    registry: str, machines: tuple[Machine, Machine]
) -> None:
    one, two = machines
    place = f"oras://{registry}/lab/cache"
    one.build(RECIPE, "--cache-to", place)
    tags = requests.get(f"http://{registry}/v2/lab/cache/tags/list", timeout=60).json()["tags"]
    (one.place / "other").write_bytes(b"\x28\xb5\x2f\xfd not a stage")
    for tag in tags:  # somebody else's file under every name
        subprocess.run(
            [*SINGBUILD, "push", "-q", one.place / "r.img", f"{place}:{tag}"],
            env=one.environment, check=True, stdout=-3,
        )  # fmt: skip
    events = two.build(RECIPE, "--cache-from", place)
    assert "is left out" in texts(events)
    assert "bootstrap" in phases(events)
    assert one.image() == two.image()


def test_a_registry_that_is_not_there_costs_a_warning(machines: tuple[Machine, Machine]) -> None:
    place = "oras://127.0.0.1:1/lab/cache"
    events = machines[0].build(RECIPE, "--cache-from", place, "--cache-to", place)
    assert texts(events).count("left out") == 1
    assert "not all in" in texts(events)
    machines[1].build(RECIPE, "--no-cache", "--cache-from", place, status=2)


@pytest.fixture
def signers(tmp_path: Path) -> dict[str, Path]:
    """Return the keys of Ada and Eve, and a list in which Ada stands alone."""
    keys = {name: tmp_path / name for name in ("ada", "eve")}
    for name, key in keys.items():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", key],
                       check=True)  # fmt: skip
    public = keys["ada"].with_suffix(".pub").read_text()
    path = tmp_path / "signers"
    path.write_text(f'ada@lab.example namespaces="singbuild-image" {public}')
    return keys | {"list": path}


def test_only_what_a_named_signer_signed_is_taken(
    registry: str, machines: tuple[Machine, Machine], signers: dict[str, Path]
) -> None:
    one, two = machines
    place = f"oras://{registry}/lab/cache"
    take = ("--cache-from", place, "--cache-signers", str(signers["list"]))
    one.build(RECIPE, "--cache-to", place)
    events = two.build(RECIPE, *take)
    assert "nobody signed it" in texts(events)
    assert "bootstrap" in phases(events)
    one.build(RECIPE, "--cache-to", place, "--cache-key", str(signers["eve"]))
    subprocess.run([*SINGBUILD, "cache", "clean"], env=two.environment, check=True)
    events = two.build(RECIPE, *take)
    assert "its key is in no list of signers" in texts(events)
    assert "bootstrap" in phases(events)
    one.build(RECIPE, "--cache-to", place, "--cache-key", str(signers["ada"]))
    subprocess.run([*SINGBUILD, "cache", "clean"], env=two.environment, check=True)
    assert not {"bootstrap", "post-1", "seal"} & phases(two.build(RECIPE, *take))
    assert one.image() == two.image()


def test_a_signed_stage_passes_for_no_other(
    registry: str, machines: tuple[Machine, Machine], signers: dict[str, Path]
) -> None:
    one, two = machines
    place = f"oras://{registry}/lab/cache"
    one.build(RECIPE, "--cache-to", place, "--cache-key", str(signers["ada"]))
    url = f"http://{registry}/v2/lab/cache/"
    tags = requests.get(f"{url}tags/list", timeout=60).json()["tags"]
    keys = [tag for tag in tags if re.fullmatch("[0-9a-f]{32}", tag)]
    assert len(keys) > 1, tags
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifests = [
        requests.get(f"{url}manifests/{key}", headers={"Accept": kind}, timeout=60).content
        for key in keys
    ]
    for key, text in zip(keys, [*manifests[1:], manifests[0]], strict=True):
        headers = {"Content-Type": kind}
        requests.put(f"{url}manifests/{key}", text, headers=headers, timeout=60).raise_for_status()
    take = ("--cache-from", place, "--cache-signers", str(signers["list"]))
    events = two.build(RECIPE, *take)
    assert "another stage than its name says" in texts(events)
    assert "bootstrap" in phases(events)
    assert one.image() == two.image()


def test_a_list_has_what_was_sent_and_not_what_a_stranger_put_there(
    registry: str, machines: tuple[Machine, Machine]
) -> None:
    one, two = machines
    place = f"oras://{registry}/lab/cache"
    one.build(RECIPE, "--cache-to", place)
    tags = requests.get(f"http://{registry}/v2/lab/cache/tags/list", timeout=60).json()["tags"]
    for tag in tags:
        subprocess.run(
            [*SINGBUILD, "push", "-q", one.place / "r.img", f"{place}:{tag}"],
            env=one.environment, check=True, stdout=-3,
        )  # fmt: skip
    output = texts(one.build(RECIPE, "--cache-to", place))
    result = re.search(r"oras://\S+@sha256:[0-9a-f]{64}", output)
    assert result, output
    events = two.build(RECIPE, "--cache-from", result[0])
    assert not {"bootstrap", "post-1", "seal"} & phases(events), events
    assert "whoever may write" not in texts(events)


def test_stages_of_whoever_may_write_are_warned_of_or_refused(
    registry: str, machines: tuple[Machine, Machine]
) -> None:
    place = f"oras://{registry}/lab/cache"
    assert f"whoever may write to {place}" in texts(
        machines[0].build(RECIPE, "--cache-from", place)
    )
    settings = machines[1].place / ".config/singbuild"
    settings.mkdir(parents=True)
    (settings / "singbuild.conf").write_text("allow unverified = no\n")
    machines[1].build(RECIPE, "--cache-from", place, status=5)
