"""Features of Dockerfiles, built here and by buildah: the same tree and configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import container_engines, dockerfile_matrix
from tests.bench.container_engines import Tool
from tests.bench.docker_registry import genuine, push
from tests.bench.dockerfile_features import (
    CONFIG,
    FEATURES,
    TRIGGERS,
    Feature,
    base_image,
    context,
)
from tests.bench.host import shared_directory

pytestmark = [pytest.mark.root, pytest.mark.long]


@pytest.fixture(scope="module")
def bases() -> Iterator[tuple[str, str]]:
    """The names of a base image, and of the same with triggers."""
    with shared_directory() as directory, genuine(directory) as server:
        result = base_image()
        push(result, server, "base")
        push(result.configured({**CONFIG, "OnBuild": TRIGGERS}), server, "triggered")
        yield f"{server}/base", f"{server}/triggered"


@pytest.fixture(scope="module")
def buildah() -> Iterator[Tool]:
    with shared_directory() as directory:
        yield container_engines.buildah(directory)


@pytest.mark.parametrize("feature", FEATURES, ids=str)
def test_a_feature_gives_what_buildah_gives(
    feature: Feature, bases: tuple[str, str], buildah: Tool, tmp_path: Path
) -> None:
    (tmp_path / "context").mkdir()
    file = context(tmp_path / "context", feature, *bases)
    ours, configured = dockerfile_matrix.by_singbuild(file, feature, tmp_path)
    theirs, expected = dockerfile_matrix.by_buildah(file, feature, tmp_path, buildah)
    assert dockerfile_matrix.differences(ours, theirs) == []
    assert dockerfile_matrix.config_differences(configured, expected) == []
