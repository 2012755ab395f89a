"""An image that only a local engine has: dockerd, or Podman's Docker socket, through docker-py."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests

from singbuild import SourceError
from singbuild_docker import manifest
from singbuild_docker.archive import DockerArchive
from singbuild_docker.image import Image, Read, Store
from singbuild_docker.manifest import Layer

SOCKETS = ("/var/run/docker.sock", "/run/podman/podman.sock", "{runtime}/podman/podman.sock")
_FAILURES = (docker.errors.DockerException, requests.RequestException, OSError)


class Engine:
    """One image of the engine that DOCKER_HOST names, or of the first socket that is there."""

    def __init__(self, name: str, store: Store) -> None:
        self.name, self.store = name, store

    def image_for(self, arch: str) -> Image:
        """Return the image as the engine describes it. Raises SourceError."""
        with _client() as client, _explained(self.name):
            about: Mapping[str, Any] = client.images.get(self.name).attrs
        config = {
            "architecture": about.get("Architecture"),
            "os": about.get("Os"),
            "created": about.get("Created"),
            "config": about.get("Config"),
            "rootfs": {"type": "layers", "diff_ids": (about.get("RootFS") or {}).get("Layers")},
        }
        manifest.check_machine(config, arch, self.name)
        ids = manifest.diff_ids(config, self.name)
        digest = self.store.keep(json.dumps(config, sort_keys=True).encode())
        identity = str(about.get("Id"))
        identity = identity if identity.startswith("sha256:") else f"sha256:{identity}"
        return Image(self.name, identity, digest, config, tuple(Layer("", 0, "", i) for i in ids))

    @contextmanager
    def opened(self, layers: Sequence[Layer]) -> Iterator[Read]:
        """Have the engine write the image to a file, for the time of a with-block."""
        with tempfile.NamedTemporaryFile(dir=self.store.path, suffix=".tar") as file:
            with _client() as client, _explained(self.name):
                self.store.report.line(f"Taking {self.name} from the engine")
                for piece in client.images.get(self.name).save():
                    file.write(piece)
            file.flush()
            with DockerArchive(Path(file.name), "", self.store).opened(layers) as read:
                yield read


@contextmanager
def _client() -> Iterator[docker.DockerClient]:
    """Reach the engine. Raises SourceError when there is none."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    places = [place.format(runtime=runtime) for place in SOCKETS]
    address = os.environ.get("DOCKER_HOST") or next(
        (f"unix://{place}" for place in places if os.path.exists(place)),  # noqa: PTH110 - False where closed
        "",
    )
    try:
        client = docker.DockerClient(base_url=address or f"unix://{places[0]}", timeout=60)
        client.ping()
    except _FAILURES as error:
        raise SourceError(
            "no Docker or Podman engine answers",
            why=f"{address or 'none of ' + ', '.join(places) + ' exists'}: {_last(error)}",
            remedy="Start dockerd, or `podman system service`, or set DOCKER_HOST to its address. "
            "An image of a registry needs no engine: Bootstrap: docker.",
        ) from error
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except docker.errors.ImageNotFound as error:
        raise SourceError(
            f"{name}: the engine has no such image",
            remedy="`docker images` lists what it has. Bootstrap: docker takes it from a registry.",
        ) from error
    except _FAILURES as error:
        raise SourceError(f"{name}: the engine does not hand it over", why=_last(error)) from error


def _last(error: BaseException) -> str:
    return str(error).rsplit(": ", 1)[-1] or type(error).__name__
