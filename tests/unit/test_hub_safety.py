"""Paths and URLs that lead out of a hub's repository, in whatever way a recipe names them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from singbuild.hub import safety
from singbuild.hub.repository import Repository
from tests.unit.test_hub import BUSYBOX, Commit, cache, commit, git, surveyed

__all__ = ["cache", "commit", "git"]
pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="needs git")
YUM = "Bootstrap: yum\nOSVersion: file\nMirrorURL: https://m.invalid/$releasever/%{BASEARCH}\n"
IMAGE = "Bootstrap: localimage\nFrom: "


def make_links(place: Path) -> None:
    """Make links that each lead to a directory of the checkout."""
    (place / "a/b/c").mkdir(parents=True)
    (place / "a/b/c/up").symlink_to("../../..")
    (place / "a/top").symlink_to("..")
    (place / "deep").symlink_to("a/b/c")


@pytest.mark.parametrize(
    "text",
    [
        f"{BUSYBOX}%files\n  a/b/c/up/../../../../etc/passwd /x\n",
        f"{BUSYBOX}%files\n  a/b/c/*/../../../../etc/passwd /x\n",
        f"{IMAGE}a/b/c/up/../../../../srv/x.sif\n",
        "Bootstrap: docker-archive\nFrom: a/b/c/up/../../../../srv/x.tar\n",
        f"{YUM}GPGKey: a/b/c/up/../../../../srv/key\n",
    ],
)
def test_up_from_where_a_link_leads_is_outside(commit: Commit, tmp_path: Path, text: str) -> None:
    make_links(tmp_path / "lab/tools")
    commit({"bad.def": text, "good.def": f"{BUSYBOX}%files\n  a/b/c/up/good.def /x\n"})
    outcome = surveyed(tmp_path)
    assert "outside the repository" in outcome.units["bad"].error
    assert "may be a link" in outcome.units["bad"].error
    assert not outcome.units["good"].error


def test_no_image_is_placed_where_a_link_leads_out_of_the_checkout(
    commit: Commit, tmp_path: Path
) -> None:
    make_links(tmp_path / "lab/tools")
    start = f"{IMAGE}a/b/c/up/../../../../elsewhere/x.sif\n"
    commit({"child.def": start, "elsewhere/x.def": BUSYBOX})
    outcome = surveyed(tmp_path)
    assert outcome.units["child"].bases == {}
    assert "outside the repository" in outcome.units["child"].error


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checkout")
    make_links(place)
    return place


PARTS = st.lists(
    st.sampled_from(["a", "b", "c", "up", "top", "deep", "..", "."]), min_size=1, max_size=8
)


@example(parts=["a", "top", ".."], start=".")
@example(parts=["deep", "up", ".."], start=".")
@given(parts=PARTS, start=st.sampled_from([".", "a", "a/b/c"]))
def test_no_link_leads_a_path_that_is_let_through_out_of_the_checkout(
    checkout: Path, parts: list[str], start: str
) -> None:
    path = "/".join(parts)
    if not safety._leaves(start, path):
        assert (checkout / start / path).resolve().is_relative_to(checkout.resolve())


def test_a_link_by_way_of_a_process_is_left_out(commit: Commit, tmp_path: Path) -> None:
    """It leads into the checkout in this process alone."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    descriptor = os.open(checkout, os.O_RDONLY | os.O_DIRECTORY)
    try:
        (tmp_path / "lab/tools/here").symlink_to(f"/proc/self/fd/{descriptor}")
        commit({"file": "x"})
        repository = Repository(str(tmp_path / "lab/tools"))
        repository.fetch()
        files = repository.files(repository.commit()).values()
        assert repository.check_out(files, checkout) == ["here"]
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"{YUM}Repositories: epel=file:///srv/x\n", "Repositories"),
        (f"{YUM}Repositories: a=https://m.invalid/a,b=FILE:///srv/x\n", "Repositories"),
        (f"{YUM}Repositories: a=%{{OSVERSION}}:///srv/x\n", "Repositories"),
        (f"{YUM}UpdateURL: $releasever:///srv/x\n", "UpdateURL"),
        (f"{YUM}GPGKey: keys/a,/etc/passwd\n", "GPGKey"),
        (f"{YUM}Include: vim\nGPGKey: file:/etc/passwd\n", "GPGKey"),
        ("Bootstrap: busybox\nMirrorURL: /bin/busybox\n", "MirrorURL"),
        (f"{IMAGE}a://../../../srv/x.sif\n", "From"),
        (f"{IMAGE}a ../../srv/x.sif\n", "From"),
    ],
)
def test_every_way_to_name_a_file_outside_is_seen(
    commit: Commit, tmp_path: Path, text: str, name: str
) -> None:
    commit({"sub/bad.def": text})
    assert f"{name} names a file outside the repository" in surveyed(tmp_path).units["bad"].error


@pytest.mark.parametrize(
    "text",
    [
        f"{YUM}Repositories: epel=https://m.invalid/epel,b=http://m.invalid/b\n",
        f"{YUM}Include: /usr/bin/vim,tmux\nGPGKey: a/key https://m.invalid/key#sha256=00\n",
        "Bootstrap: busybox\nMirrorURL: busybox-static\n",
        "Bootstrap: docker\nFrom: registry.invalid:5000/a/b@sha256:00\n",
        f"{IMAGE}../base/image.sif\n",
    ],
)
def test_what_is_in_the_repository_or_on_the_web_is_let_through(
    commit: Commit, tmp_path: Path, text: str
) -> None:
    commit({"sub/good.def": text, "a/key": "k", "base/image.sif": ""})
    assert surveyed(tmp_path).units["good"].error == ""
