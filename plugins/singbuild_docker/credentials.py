"""Who the user is to a registry: environment, Docker's and Podman's files, credential helpers."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from singbuild import Reporter
from singbuild_docker.reference import Reference
from singbuild_docker.settings import readable

PREFIXES = ("SINGBUILD", "APPTAINER", "SINGULARITY")


@dataclass(frozen=True)
class Credentials:
    """A name and a password, or a refresh token (``identity``) that stands for both."""

    username: str = ""
    password: str = ""
    identity: str = ""


def find(image: Reference, report: Reporter, *, environment: bool = True) -> Credentials | None:
    """Return what the user has for an image's registry, or None: SINGBUILD_DOCKER_USERNAME and
    SINGBUILD_DOCKER_PASSWORD (also APPTAINER_…, SINGULARITY_…), then the files.

    environment: whether the variables count. A file or a helper that is broken is warned of:
    most images need no credentials, and a registry that wants some says so.
    """  # noqa: D205 - the order is one thought
    for prefix in PREFIXES if environment else ():
        username = os.environ.get(f"{prefix}_DOCKER_USERNAME")
        password = os.environ.get(f"{prefix}_DOCKER_PASSWORD")
        if username and password:
            return Credentials(username, password)
    for path in readable(_files()):
        if credentials := _read(path, image, report):
            return credentials
    return None


def servers(report: Reporter) -> list[str]:
    """Return the registries, or parts of them, for which the files and their helpers have some."""
    from docker import auth, errors  # see _read
    from docker.credentials import Store
    from docker.credentials.errors import StoreError

    broken = (errors.DockerException, StoreError, OSError, ValueError, TypeError, AttributeError)
    names: set[str] = set()
    for path in readable(_files()):
        try:
            document = json.loads(path.read_bytes())
            for kind in ("auths", "credHelpers"):
                names.update(document.get(kind) or {})
            if helper := document.get("credsStore"):
                with warnings.catch_warnings(action="ignore"):  # docker-py says the same twice
                    store: Any = Store(helper)  # docker-py has no types
                names.update(store.list())
        except broken as error:
            report.warn(f"{path}: cannot be understood: {error}")
    texts = [name for name in names if isinstance(name, str)]
    return sorted({name if _is_part(name) else auth.resolve_index_name(name) for name in texts})


def _files() -> Iterator[Path]:
    """The files that `docker login` and `podman login` write: containers-auth.json(5)."""
    home = Path.home()
    if os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(os.environ["REGISTRY_AUTH_FILE"])
    yield Path(os.environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    if os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(os.environ["XDG_RUNTIME_DIR"]) / "containers/auth.json"
    yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"


def _read(path: Path, image: Reference, report: Reporter) -> Credentials | None:
    """Return what a file has for an image; its entries for other registries are not looked at."""
    # 0.2 s to import, and most builds need no credentials.
    from docker import auth, errors

    broken = (errors.DockerException, OSError, ValueError, TypeError, AttributeError, LookupError)
    try:
        document = json.loads(path.read_bytes())
        entries = dict(document.get("auths") or {})
    except broken as error:
        report.warn(f"{path}: cannot be understood, and gives no credentials: {error}")
        return None
    stores = {name: document[name] for name in ("credsStore", "credHelpers") if document.get(name)}
    host = auth.resolve_index_name(image.registry)

    def of_entries(keys: Iterable[str]) -> Any:
        return next(
            filter(None, auth.AuthConfig.parse_auth({k: entries[k] for k in keys}, True).values()),
            None,
        )

    looks: tuple[Callable[[], Any], ...] = (
        lambda: of_entries(_parts(entries, image)),
        lambda: stores and auth.AuthConfig(dict(stores)).resolve_authconfig(image.registry),
        lambda: of_entries(
            key for key in entries if not _is_part(key) and auth.resolve_index_name(key) == host
        ),
    )
    for look in looks:
        try:
            with warnings.catch_warnings(action="ignore"):  # docker-py says the same twice
                credentials = look()
            if credentials:
                return _credentials(credentials)
        except broken as error:
            report.warn(f"{path}: gives no credentials for {image.registry}: {error}")
    return None


def _credentials(entry: Mapping[str, Any]) -> Credentials | None:
    """Return the credentials in an entry of docker-py's, None for none."""
    fields = {name.lower(): value for name, value in entry.items()}
    if fields.get("identitytoken"):
        return Credentials(identity=fields["identitytoken"])
    if fields.get("username"):
        return Credentials(fields["username"], fields.get("password") or "")
    return None


def _is_part(key: str) -> bool:
    """Whether an entry is of a part of a registry: HOST/PART, as containers-auth.json(5) has it.

    Docker has hosts and URLs.
    """
    return "/" in key and not key.endswith("/") and "://" not in key


def _parts(entries: Iterable[str], image: Reference) -> list[str]:
    """Return the key of the longest part of an image's name, if any has one."""
    name = f"{image.registry}/{image.repository}/"
    fitting = [key for key in entries if _is_part(key) and name.startswith(f"{key}/")]
    return [max(fitting, key=len)] if fitting else []
