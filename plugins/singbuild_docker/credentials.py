"""Who the user is to a registry: environment, Docker's and Podman's files, credential helpers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from singbuild import SourceError

PREFIXES = ("SINGBUILD", "APPTAINER", "SINGULARITY")


@dataclass(frozen=True)
class Credentials:
    """A name and a password, or a refresh token (``identity``) that stands for both."""

    username: str = ""
    password: str = ""
    identity: str = ""


def find(registry: str) -> Credentials | None:
    """Return what the user has for a registry, or None: SINGBUILD_DOCKER_USERNAME and
    SINGBUILD_DOCKER_PASSWORD (also APPTAINER_…, SINGULARITY_…), then the files.

    Raises SourceError for a file or a helper that is broken.
    """  # noqa: D205 - the order is one thought
    for prefix in PREFIXES:
        username = os.environ.get(f"{prefix}_DOCKER_USERNAME")
        password = os.environ.get(f"{prefix}_DOCKER_PASSWORD")
        if username and password:
            return Credentials(username, password)
    for path in filter(Path.is_file, _files()):
        if found := _read(path, registry):
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


def _read(path: Path, registry: str) -> Credentials | None:
    # 0.2 s to import, and most builds need no credentials.
    from docker import auth, errors
    from docker.credentials import errors as helper_errors

    try:
        found = auth.load_config(str(path)).resolve_authconfig(registry) or {}
    except (errors.DockerException, helper_errors.StoreError, OSError, ValueError) as error:
        raise SourceError(
            f"{path}: gives no credentials for {registry}",
            why=str(error),
            remedy="Log in again (docker login), or correct the file.",
        ) from error
    known = {name.lower(): value for name, value in found.items()}
    if known.get("identitytoken"):
        return Credentials(identity=known["identitytoken"])
    if known.get("username"):
        return Credentials(known["username"], known.get("password") or "")
    return None
