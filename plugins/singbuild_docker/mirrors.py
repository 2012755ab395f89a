"""Where an image may be had besides its registry: what the host's configuration says of mirrors.

Sources: containers-registries.conf(5), which Podman, Skopeo and Buildah read, and dockerd's
daemon.json ("registry-mirrors", "insecure-registries"). Nothing here fetches anything.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from singbuild import SourceError
from singbuild_docker.reference import DOCKER, Reference, host_of
from singbuild_docker.settings import matching_files, readable

DAEMON = Path("/etc/docker/daemon.json")
SYSTEM = Path("/etc/containers")

Table = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """A registry that may have an image. image: its name there; insecure: see Registry."""

    image: Reference
    insecure: bool
    is_mirror: bool = False


def places(image: Reference, *, insecure: bool) -> list[Place]:
    """Return the places to ask for an image: mirrors, in order, and its registry as the last.

    Raises SourceError for a configuration that makes no sense, or that blocks the image.
    """
    table = _chosen(image)
    if table.get("blocked"):
        raise SourceError(
            f"{image}: this host's configuration blocks it",
            why="A [[registry]] of registries.conf says blocked = true.",
            remedy="Choose another image, or ask who administers this host.",
        )
    daemon = _read(DAEMON, json.loads) if readable([DAEMON]) else {}
    plain = [str(each) for each in daemon.get("insecure-registries") or []]
    main = Place(_moved(image, table, table), insecure or bool(table.get("insecure")))
    mirrors = [*_mirrors(image, table), *_dockers(image, daemon), main]
    return [
        replace(each, insecure=each.insecure or _is_listed(each.image.registry, plain))
        for each in mirrors
    ]


def _is_listed(registry: str, listed: Sequence[str]) -> bool:
    """Whether dockerd takes a registry as insecure: by name, or as one of a network (CIDR)."""
    networks = [network for each in listed if (network := _network(each))]
    if registry in listed or registry == DOCKER or not networks:
        return registry in listed
    with suppress(OSError, UnicodeError):  # nobody knows the name: the download will say so
        rows = socket.getaddrinfo(host_of(registry), None, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(row[4][0]) for row in rows]
        return any(address in network for address in addresses for network in networks)
    return False


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False) if "/" in text else None
    except ValueError:
        return None


def _mirrors(image: Reference, table: Table) -> Iterator[Place]:
    """Yield what registries.conf names."""
    kind = "digest-only" if image.digest else "tag-only"
    for mirror in table.get("mirror") or []:
        policy = mirror.get("pull-from-mirror") or "all"
        if policy in ("all", kind) and (image.digest or not table.get("mirror-by-digest-only")):
            moved = _moved(image, table, mirror)
            yield Place(moved, bool(mirror.get("insecure")), is_mirror=True)


def _dockers(image: Reference, daemon: Table) -> Iterator[Place]:
    """Yield what daemon.json names: mirrors of Docker's own registry alone."""
    for url in daemon.get("registry-mirrors") or [] if image.registry == DOCKER else []:
        scheme, _, rest = str(url).rstrip("/").rpartition("://")
        host, _, path = rest.partition("/")
        moved = replace(image, registry=host, repository=f"{path}/{image.repository}".lstrip("/"))
        yield Place(moved, scheme == "http", is_mirror=True)


def _moved(image: Reference, table: Table, place: Table) -> Reference:
    """Return the image's name with ``place``'s location for ``table``'s prefix."""
    location = str(place.get("location") or "").rstrip("/")
    if not location:
        return image
    # A prefix *.HOST stands for the whole host, which the location replaces: the same man page.
    prefix = "" if _prefix(table).startswith("*.") else _prefix(table).rstrip("/")
    rest = f"{image.registry}/{image.repository}".removeprefix(prefix or image.registry)
    host, _, repository = (location + rest).partition("/")
    return replace(image, registry=host, repository=repository)


def _chosen(image: Reference) -> Table:
    """Return the [[registry]] whose prefix has most of the image's name; {} if none has any."""
    name = f"{image.registry}/{image.repository}"
    fitting = {prefix: table for prefix, table in _tables().items() if _fits(prefix, name)}
    # containers-registries.conf(5): "the longest matching prefix" decides.
    return fitting[max(fitting, key=len)] if fitting else {}


def _fits(prefix: str, name: str) -> bool:
    if prefix.startswith("*."):
        return name.partition("/")[0].endswith(prefix[1:])
    return name == prefix or name.startswith(f"{prefix}/")


def _tables() -> dict[str, Table]:
    """Return the [[registry]] tables of all files by prefix; later files win."""
    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "containers"
    path = os.environ.get("CONTAINERS_REGISTRIES_CONF")
    mains = [Path(path)] if path else [own / "registries.conf", SYSTEM / "registries.conf"]
    files = readable(mains)[:1]
    for directory in (SYSTEM, own):
        files += matching_files(directory / "registries.conf.d", "*.conf")
    by_prefix: dict[str, Table] = {}
    for file in files:
        tables = _read(file, tomllib.loads).get("registry") or []
        if not isinstance(tables, list) or not all(map(_is_table, tables)):
            raise _unread(file, "registry is not [[registry]] with text and true or false in it")
        by_prefix |= {_prefix(table): table for table in tables}
    return by_prefix


def _is_table(value: object) -> bool:
    mirrors = value.get("mirror", []) if isinstance(value, dict) else None
    return isinstance(mirrors, list) and all(isinstance(each, dict) for each in mirrors)


def _prefix(table: Table) -> str:
    return str(table.get("prefix") or table.get("location") or "")


def _read(file: Path, parse: Callable[[str], Any]) -> Table:
    try:
        table = parse(file.read_text())
    except (OSError, ValueError) as error:
        raise _unread(file, str(error)) from error
    if not isinstance(table, dict):
        raise _unread(file, "it holds no settings")
    return table


def _unread(file: Path, why: str) -> SourceError:
    return SourceError(f"{file}: cannot be understood", why=why, remedy="Correct it.")
