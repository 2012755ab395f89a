"""Images that engines hold, and archives that their commands write, by dockerd, Podman, Buildah."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from singbuild import SourceError
from tests.bench.container_engines import Tool, buildah, dockerd, podman
from tests.bench.docker_images import write_layout
from tests.host.registries.test_docker_build import IMAGE, Facts, skopeo, unpacked

pytestmark = pytest.mark.root
Engine = Callable[[Path], AbstractContextManager[Tool]]


@pytest.fixture
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a short name, that holds the image as a layout."""
    result = tmp_path_factory.mktemp("e")
    write_layout(result / "layout", {"one": IMAGE})
    return result


def report(facts: Facts) -> Facts:
    """What engines keep of a tree: of times only what is after 1970, in whole seconds."""
    return {name: fact[:2] + fact[4:] for name, fact in facts.items() if name != "."}


@pytest.mark.parametrize("engine", [pytest.param(dockerd, marks=pytest.mark.long), podman])
def test_an_image_that_only_an_engine_has(
    engine: Engine, where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = report(unpacked("oci", f"{where}/layout:one", where))
    skopeo(f"oci:{where}/layout:one", f"docker-archive:{where}/docker.tar:ada/tool:1")
    with engine(where) as tool:
        tool("load", "-i", where / "docker.tar")
        monkeypatch.setenv("DOCKER_HOST", tool.address)
        assert report(unpacked("docker-daemon", "ada/tool:1", where)) == expected
        with pytest.raises(SourceError, match="the engine has no such image"):
            unpacked("docker-daemon", "ada/other", where)
        tool("save", "-o", where / "saved.tar", "ada/tool:1")
    assert report(unpacked("docker-archive", f"{where}/saved.tar:ada/tool:1", where)) == expected


def test_archives_of_buildah(where: Path) -> None:
    expected = report(unpacked("oci", f"{where}/layout:one", where))
    tool = buildah(where)
    container = tool("from", f"oci:{where}/layout:one").strip()
    for kind, form in (("oci-archive", "oci"), ("docker-archive", "docker")):
        tool("commit", "-q", "--format", form, container, f"{kind}:{where}/{form}.tar:ada/tool:1")
        outcome = report(unpacked(kind, f"{where}/{form}.tar:ada/tool:1", where))
        assert outcome == expected
    tool("rm", container)


def test_no_engine_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(SourceError) as caught:
        unpacked("docker-daemon", "x", tmp_path)
    assert "none.sock" in str(caught.value)
    assert "podman system service" in caught.value.remedy
