"""Image names, completed as Docker completes them.

``ubuntu`` is ``docker.io/library/ubuntu:latest``; the first part is a registry only if it has
a dot or a colon, or is ``localhost`` (github.com/distribution/reference, "Grammar").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from singbuild import RecipeKeyError, is_yes

DOCKER, DOCKER_SERVER, DOCKER_NAMESPACE = "docker.io", "registry-1.docker.io", "library"
"""What Docker's naming rule assumes where a name has no registry: a part of the names
themselves, like a country's code before a telephone number. It is written nowhere else."""

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")


@dataclass(frozen=True)
class Reference:
    """One image's full name. digest: of the manifest, "" if a tag names it."""

    registry: str
    repository: str
    tag: str
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.registry}/{self.repository}{tag}{'@' * bool(self.digest)}{self.digest}"

    @property
    def server(self) -> str:
        """The host, with a port if it has one, that answers for the registry."""
        return DOCKER_SERVER if self.registry == DOCKER else self.registry

    @property
    def tag_or_digest(self) -> str:
        """What to ask the registry for: the digest, else the tag."""
        return self.digest or self.tag


def named(keywords: Mapping[str, str]) -> Reference:
    """Return what the keywords From, Registry and Namespace name. Raises RecipeKeyError."""
    text = keywords["From"].strip()
    rest = re.sub("^(docker|oras)://", "", text).removeprefix("//")
    rest, at, digest = rest.partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise _wrong(text, f"{digest!r} is no digest", "Write it as sha256: and 64 digits.")
    registry, rest = _registry(rest, keywords.get("Registry", ""))
    repository, colon, tag = _parted(rest)
    if "/" not in repository and keywords.get("Namespace"):
        repository = f"{keywords['Namespace'].strip('/')}/{repository}"
    if registry == DOCKER and "/" not in repository:
        repository = f"{DOCKER_NAMESPACE}/{repository}"
    if not _REPOSITORY.fullmatch(repository):
        raise _wrong(text, f"{repository!r} is no repository", "Names have small letters only.")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(text, f"{tag!r} is no tag", "Tags have letters, digits, _ . and -.")
    return Reference(registry, repository, tag or ("" if digest else "latest"), digest)


def is_insecure(keywords: Mapping[str, str]) -> bool:
    """Return whether plain http and unknown certificates will do. Raises RecipeKeyError."""
    return keywords.get("Registry", "").startswith("http://") or is_yes(keywords, "Insecure")


def registry_of(text: str) -> str:
    """Return the registry that a user names, with or without a scheme. Raises RecipeKeyError."""
    return _normal(re.sub("^[a-z]+://", "", text).rstrip("/"), "Registry")


def host_of(server: str) -> str:
    """Return a server's name or address without the port."""
    return re.sub(r":[0-9]+$", "", server).strip("[]")


def is_loopback(server: str) -> bool:
    """Whether a host, with or without port, is this machine itself."""
    from singbuild import download  # most names need nothing of it

    return download.is_loopback(host_of(server))


def _registry(name: str, keyword: str) -> tuple[str, str]:
    """Split the registry from a name; ``keyword`` holds for names that have none."""
    first, slash, rest = name.partition("/")
    if slash and (set(".:") & set(first) or first == "localhost" or first != first.lower()):
        return _normal(first, "From"), rest
    return _normal(re.sub("^https?://", "", keyword).rstrip("/") or DOCKER, "Registry"), name


def _normal(registry: str, keyword: str) -> str:
    if not _HOST.fullmatch(registry):
        raise RecipeKeyError(
            keyword, f"{registry!r} is no registry", remedy="Write it as HOST or HOST:PORT."
        )
    return DOCKER if registry in (f"index.{DOCKER}", DOCKER_SERVER) else registry


def _parted(name: str) -> tuple[str, str, str]:
    """Split the tag from a name; a digest's colon is gone by now."""
    repository, colon, tag = name.rpartition(":")
    return (repository, colon, tag) if colon else (tag, "", "")


def _wrong(text: str, why: str, remedy: str) -> RecipeKeyError:
    if '"' in text or "'" in text:
        remedy = "Quotes are part of a value, here and in %arguments: leave them out."
    return RecipeKeyError("From", f"{text!r} is no name of an image", why=why, remedy=remedy)
