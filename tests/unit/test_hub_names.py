"""What a hub calls recipes, their images and collections, and the names that it refuses."""

from __future__ import annotations

import pytest

from singbuild.errors import UsageError
from singbuild.hub import collection, recipes


def test_recipes_are_named_as_singularity_hub_named_them() -> None:
    outcome = recipes.candidates(
        [
            "Singularity",
            "Singularity.gpu",
            "deep/down/Singularity.gpu",
            "Apptainer.cpu",
            "tools/samtools.def",
            "Dockerfile",
            "web/Dockerfile",
            "api.Dockerfile",
            "Singularity.bad tag",
            "README.md",
            "samtools.lock.yaml",
            "Dockerfile.dockerignore",
            "Singularity.txt",
        ]
    )
    assert {each.path: each.tag for each in outcome if each.tag} == {
        "Apptainer.cpu": "cpu",
        "Dockerfile": "latest-docker",
        "Singularity": "latest",
        "Singularity.gpu": "gpu",
        "api.Dockerfile": "api",
        "deep/down/Singularity.gpu": "deep-down-gpu",
        "tools/samtools.def": "samtools",
        "web/Dockerfile": "web-latest",
    }
    why = {each.path: each.why_not for each in outcome if not each.tag}
    assert [*why] == ["Singularity.bad tag"]
    assert "is no tag" in why["Singularity.bad tag"]


@pytest.mark.parametrize(
    "name",
    [
        *("index.html", "index-2.html", "feed.xml", "keys.js", "collection.json", "badge.svg"),
        *("sizes.csv", "pushed.json", "tools.json", "library.json", "summary.json.gz"),
    ],
)
def test_no_tag_has_the_name_of_a_collections_page(name: str) -> None:
    (candidate,) = recipes.candidates([f"Singularity.{name}"])
    assert (candidate.tag, name in candidate.why_not) == ("", True)
    assert recipes.candidates([f"Singularity.{name}.1"])[0].tag == f"{name}.1"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("https://git.example/lab/tools.git", "lab/tools"),
        ("git@git.example:lab/tools.git", "lab/tools"),
        ("/home/lab/tools/", "lab/tools"),
    ],
)
def test_a_collection_is_named_as_its_repository(source: str, name: str) -> None:
    assert collection.name_of(source) == name


@pytest.mark.parametrize("name", ["tools", "a/b/c", "../x", "a/..", "images/x", ".a/b", "a /b", ""])
def test_a_name_that_would_leave_the_site_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no name of a collection"):
        collection.check_name(name)
