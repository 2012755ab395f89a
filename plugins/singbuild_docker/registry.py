"""An image in a registry: Docker's and OCI's distribution protocol, version 2.

Manifests and layers land in the shared store, under their digests; what is there is not
fetched again. Source: github.com/opencontainers/distribution-spec, "Pull". Our own, since the
clients on PyPI (python-dxf, oras) know none of registries.conf, certs.d and credential helpers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests

from singbuild import Reporter, SourceError
from singbuild.download import Fetched, NotFoundError, fetch, is_offline
from singbuild_docker import manifest
from singbuild_docker.arriving import Arriving
from singbuild_docker.authorization import Authorization
from singbuild_docker.connection import choose_scheme, open_session
from singbuild_docker.image import Image, Read, Store
from singbuild_docker.manifest import Layer
from singbuild_docker.mirrors import Place, places
from singbuild_docker.reference import Reference

ACCEPT = ", ".join((*manifest.INDEXES, *manifest.MANIFESTS))
DEEPEST = 3  # indexes in indexes


class Registry:
    """One image's place in a registry, and in the mirrors that this host has for it.

    insecure: plain http and unknown certificates are taken; plain http always is on this
    machine itself. pinned: the digest of the manifest to keep to, whatever the tag says now.
    """

    def __init__(self, image: Reference, store: Store, *, insecure: bool, pinned: str = "") -> None:
        self.image, self.store = image, store
        self.wanted = pinned or image.wanted
        found = places(image, insecure=insecure)
        self._sites = [_Site(each) for each in (found[-1:] if is_offline() else found)]

    def image_for(self, arch: str) -> Image:
        """Return what the reference names, for one kind of machine. Raises SourceError."""
        whose = str(self.image)
        content = self._manifest(self.wanted)
        found = manifest.document(content.read(), whose)
        for _ in range(DEEPEST):
            if not manifest.is_index(found, whose):
                break
            chosen = manifest.choose(found, arch, whose)
            content = self._manifest(chosen.digest)
            _check_size(content, chosen.size, f"{whose}: {chosen.digest}")
            found = manifest.document(content.read(), whose)
        else:
            raise SourceError(f"{whose}: its index leads to no image", remedy="Choose another.")
        about = manifest.config_of(found, whose)
        if about.size > manifest.LARGEST_CONFIG:
            raise SourceError(
                f"{whose}: its configuration has {about.size:,} bytes",
                why=f"More than {manifest.LARGEST_CONFIG:,} bytes are not taken.",
                remedy="Find out who made the image, and have it repaired.",
            )
        blob = self._blob(about.digest, about.size, self.store.report)
        config = manifest.document(blob.read(), whose)
        manifest.check_machine(config, arch, whose)
        layers = manifest.layers(found, config, whose)
        return Image(whose, f"sha256:{content.sha256}", about.digest, config, layers)

    @contextmanager
    def opened(self, layers: Sequence[Layer]) -> Iterator[Read]:
        """Fetch layers, several at a time, for the time of a with-block; yield how to read one."""

        def bring(layer: Layer, report: Reporter) -> Fetched:
            return self._blob(layer.digest, layer.size, report)

        with Arriving(layers, self.store, bring) as arriving:
            yield arriving.read

    def _manifest(self, wanted: str) -> Fetched:
        """Fetch a manifest by tag or digest, and remember where the tag led, for offline builds."""
        name, _, sha256 = wanted.rpartition(":")
        tag = wanted if name != "sha256" else ""
        if tag and is_offline():
            sha256 = self.store.recall(f"{self.image.registry}/{self.image.repository}:{tag}")
        known = sha256 if not tag or is_offline() else ""
        try:
            got = self._fetch(f"manifests/{wanted}", known, manifest.LARGEST, self.store.report)
        except NotFoundError as error:
            raise SourceError(
                f"{self.image}: the registry has no such image",
                # The distribution specification's words, which programs look for.
                why=f"{error.why} (manifest unknown)".strip(),
                remedy="Check the name and the tag.",
            ) from error
        if tag:
            name = f"{self.image.registry}/{self.image.repository}:{tag}"
            self.store.remember(name, got.sha256)
        return got

    def _blob(self, digest: str, size: int, report: Reporter) -> Fetched:
        try:
            got = self._fetch(f"blobs/{digest}", digest.removeprefix("sha256:"), size, report)
        except NotFoundError as error:
            raise SourceError(
                f"{self.image}: the registry has lost {digest}, which is a part of it",
                why=error.why,
                remedy="Build again: a new image may just have replaced it. Else push it again.",
            ) from error
        _check_size(got, size, f"{self.image}: {digest}")
        return got

    def _fetch(self, path: str, sha256: str, limit: int, report: Reporter) -> Fetched:
        """Fetch from the first place that has it; one that fails is not asked again."""
        *mirrors, registry = self._sites
        for site in mirrors:
            try:
                return site.fetch(path, self.store.path, sha256, limit, report)
            except SourceError as error:
                report.warn(f"a mirror fails, the next place is asked: {error.what}")
                if not isinstance(error, NotFoundError):
                    self._sites = [each for each in self._sites if each is not site]
        return registry.fetch(path, self.store.path, sha256, limit, report)


class _Site:
    """One place, and how to speak to it; shared by all threads."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._lock = threading.Lock()
        self._auth: Authorization | None = None
        self._base = ""

    def fetch(self, path: str, into: Path, sha256: str, limit: int, report: Reporter) -> Fetched:
        """Fetch what lies below the repository there. Raises what download.fetch does."""
        url = f"{self._connect(report)}/{path}"
        with self._session() as session:
            session.headers["Accept"] = ACCEPT
            session.auth = self._auth
            return fetch(url, into, report=report, sha256=sha256, size_limit=limit, session=session)

    def _connect(self, report: Reporter) -> str:
        """Return where the repository is; find out how to speak to it, once."""
        with self._lock:
            if not self._base:
                server, insecure = self.place.image.server, self.place.insecure
                scheme = "https" if is_offline() else choose_scheme(server, insecure=insecure)
                self._base = f"{scheme}://{server}/v2/{self.place.image.repository}"
                self._auth = Authorization(self.place, self._base, self._session(), report)
        return self._base

    def _session(self) -> requests.Session:
        return open_session(self.place.image.server, insecure=self.place.insecure)


def _check_size(got: Fetched, told: int, what: str) -> None:
    if got.size != told:
        raise SourceError(
            f"{what}: has {got.size} bytes, not the {told} that the manifest tells",
            remedy="Find out who made the image, and have it repaired.",
        )
