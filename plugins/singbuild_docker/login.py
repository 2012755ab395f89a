"""Keeps and forgets passwords where docker does: ~/.docker/config.json, or its helper programs.

Podman, skopeo and buildah read that file as well: containers-auth.json(5).
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests

from singbuild import HostError, Reporter, SourceError
from singbuild.download import TIMEOUT
from singbuild_docker.authorization import Authorization
from singbuild_docker.connection import Connector
from singbuild_docker.credentials import Credentials, servers
from singbuild_docker.mirrors import places
from singbuild_docker.reference import DOCKER, Reference, registry_of


def login(registry: str, username: str, password: str, report: Reporter) -> str:
    """Try a password, and keep it; return where. Raises SourceError, HostError."""
    _try(registry_of(registry), Credentials(username, password), report)
    with _settings() as (path, settings):
        if helper := _helper(settings, registry_of(registry)):
            with _store(helper, path) as store:
                store.store(_key(registry), username, password)
            return f"docker-credential-{helper}"
        pair = base64.b64encode(f"{username}:{password}".encode()).decode()
        settings.setdefault("auths", {})[_key(registry)] = {"auth": pair}
        _write(path, settings)
        return str(path)


def logins(report: Reporter) -> dict[str, bool]:
    """Return the registries with a password, and whether each is asked by TLS alone."""
    return {
        name: not places(Reference(name.partition("/")[0], "", ""), insecure=False)[-1].insecure
        for name in servers(report)
    }


def logout(registry: str) -> str:
    """Forget a password; return where it was, "" if nowhere. Raises HostError."""
    with _settings() as (path, settings):
        if helper := _helper(settings, registry_of(registry)):
            with _store(helper, path) as store:
                store.erase(_key(registry))
            return f"docker-credential-{helper}"
        entries = settings.get("auths")
        names = {_key(registry), registry_of(registry)}
        keys = names & set(entries) if isinstance(entries, dict) else set()
        for name in keys:
            del settings["auths"][name]
        if keys:
            _write(path, settings)
        return str(path) if keys else ""


def _try(registry: str, who: Credentials, report: Reporter) -> None:
    """Ask the registry whether it takes a password. Raises SourceError."""
    place = places(Reference(registry, "", ""), insecure=False)[-1]
    connector = Connector(place.image.server, insecure=place.insecure)
    url = f"{connector.choose_scheme()}://{connector.server}/v2/"
    with connector.open() as session:
        session.auth = Authorization(place, url, session, report, actions="", credentials=who)
        try:
            with session.get(url, timeout=TIMEOUT, stream=True) as answer:
                status = f"{answer.status_code} {answer.reason}"
                if answer.ok:
                    return
        except requests.RequestException as error:
            status = str(error)
    raise SourceError(f"{registry}: cannot log in", why=status, remedy="Check the name.")


@contextlib.contextmanager
def _settings() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Open docker's settings for one writer at a time; yield their path and what they say."""
    directory = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    path = directory / "config.json"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if path.exists() and not path.is_file():  # to read a FIFO would be to wait
                raise ValueError("it is no regular file")
            settings = json.loads(path.read_bytes()) if path.exists() else {}
            if not isinstance(settings, dict) or not isinstance(settings.get("auths", {}), dict):
                raise ValueError("it holds no settings")
            yield path, settings
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", "") or str(error)
        raise HostError(f"{path}: cannot be used", why=why, remedy="Correct it.") from error


def _write(path: Path, settings: Mapping[str, Any]) -> None:
    """Write the file anew, whole or not at all; nobody else may read it. Raises OSError."""
    fd, new = tempfile.mkstemp(dir=path.parent, prefix=".config.json.")
    try:
        with os.fdopen(fd, "w") as file:
            # As docker indents it: people compare and keep this file.
            json.dump(settings, file, indent="\t")
        # It may be a link into a repository of settings.
        Path(new).rename(path.resolve())
    except BaseException:
        Path(new).unlink(missing_ok=True)
        raise


def _helper(settings: Mapping[str, Any], registry: str) -> str:
    """Return the helper program for a registry, as its name goes on after docker-credential-."""
    special = settings.get("credHelpers")
    own = special.get(registry) if isinstance(special, dict) else None
    return str(own or settings.get("credsStore") or "")


@contextlib.contextmanager
def _store(helper: str, path: Path) -> Iterator[Any]:
    """Yield docker-py's object for a helper program. Raises HostError: the program fails.

    path: of the settings that name it.
    """
    # 0.2 s to import, and most have no helper.
    from docker.credentials import Store
    from docker.credentials.errors import StoreError

    try:
        with warnings.catch_warnings(action="ignore"):  # docker-py says the same twice
            store: Any = Store(helper)
        yield store
    except StoreError as error:
        raise HostError(
            f"docker-credential-{helper} cannot be used",
            why=f"{error}.",
            remedy=f"Install or repair it, or correct credsStore and credHelpers in {path}.",
        ) from error


def _key(registry: str) -> str:
    """Return the key of a registry's entry; Docker's own has a URL that no other rule gives."""
    from docker import auth  # see _store

    return str(auth.INDEX_URL) if registry_of(registry) == DOCKER else registry_of(registry)
