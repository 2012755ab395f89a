"""Who the user is to a registry: environment, Docker's and Podman's files, credential helpers."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from singbuild import SourceError
from singbuild_docker.reference import Reference

PREFIXES = ("SINGBUILD", "APPTAINER", "SINGULARITY")


@dataclass(frozen=True)
class Credentials:
    """A name and a password, or a refresh token (``identity``) that stands for both."""

    username: str = ""
    password: str = ""
    identity: str = ""


def find(image: Reference, *, environment: bool = True) -> Credentials | None:
    """Return what the user has for an image's registry, or None: SINGBUILD_DOCKER_USERNAME and
    SINGBUILD_DOCKER_PASSWORD (also APPTAINER_…, SINGULARITY_…), then the files.

    environment: whether the variables count.
    Raises SourceError for a file or a helper that is broken.
    """  # noqa: D205 - the order is one thought
    for prefix in PREFIXES if environment else ():
        username = os.environ.get(f"{prefix}_DOCKER_USERNAME")
        password = os.environ.get(f"{prefix}_DOCKER_PASSWORD")
        if username and password:
            return Credentials(username, password)
    for path in filter(Path.is_file, _files()):
        if found := _read(path, image):
            return found
    return None


def _files() -> Iterator[Path]:
    """The files that `docker login` and `podman login` write: containers-auth.json(5)."""
    home = Path.home()
    if os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(os.environ["REGISTRY_AUTH_FILE"])
    yield Path(os.environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    if os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(os.environ["XDG_RUNTIME_DIR"]) / "containers/auth.json"
    yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"


def _read(path: Path, image: Reference) -> Credentials | None:
    # 0.2 s to import, and most builds need no credentials.
    from docker import auth, errors
    from docker.credentials import errors as helper_errors

    try:
        config = auth.load_config(str(path))
        found = _of_a_part(config.auths, image) or config.resolve_authconfig(image.registry) or {}
    except (errors.DockerException, helper_errors.StoreError, OSError, ValueError) as error:
        raise SourceError(
            f"{path}: gives no credentials for {image.registry}",
            why=str(error),
            remedy="Log in again (docker login), or correct the file.",
        ) from error
    known = {name.lower(): value for name, value in found.items()}
    if known.get("identitytoken"):
        return Credentials(identity=known["identitytoken"])
    if known.get("username"):
        return Credentials(known["username"], known.get("password") or "")
    return None


def _of_a_part(known: MutableMapping[str, Any], image: Reference) -> Any:
    """Return the entry of the longest part of an image's name; take out all that are of parts.

    containers-auth.json(5) has HOST/PART as keys. Docker has hosts and URLs, and so docker-py
    would take such a key for one of the whole host.
    """
    keys = [key for key in known if "/" in key and not key.endswith("/") and "://" not in key]
    parts = {key: known.pop(key) for key in keys}
    name = f"{image.registry}/{image.repository}/"
    fitting = [key for key in parts if name.startswith(f"{key}/")]
    return parts[max(fitting, key=len)] if fitting else None
