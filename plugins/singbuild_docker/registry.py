"""An image in a registry: Docker's and OCI's distribution protocol, version 2.

Manifests and layers land in the shared store, under their digests; what is there is not
fetched again. Source: github.com/opencontainers/distribution-spec, "Pull". Our own, since the
clients on PyPI (python-dxf, oras) know none of registries.conf, certs.d and credential helpers.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from singbuild import RemoteSignature, Reporter, SourceError
from singbuild.download import Fetched, NotFoundError, is_offline
from singbuild_docker import attestation, cosign, manifest, simple_signing, trust
from singbuild_docker.cosign import Signature
from singbuild_docker.downloads import LayerDownloads
from singbuild_docker.image import Image, Read, Store
from singbuild_docker.manifest import Layer
from singbuild_docker.mirrors import places
from singbuild_docker.reference import Reference
from singbuild_docker.site import Site

DEEPEST = 3  # indexes in indexes


class Registry:
    """One image's place in a registry, and in the mirrors that this host has for it.

    insecure: plain http and unknown certificates are taken; plain http always is on this
    machine itself. pinned: the digest of the manifest to keep to, whatever the tag says now.
    """

    def __init__(self, image: Reference, store: Store, *, insecure: bool, pinned: str = "") -> None:
        self.image, self.store = image, store
        self.tag_or_digest = pinned or image.tag_or_digest
        candidates = places(image, insecure=insecure)
        self._sites = [Site(each) for each in (candidates[-1:] if is_offline() else candidates)]

    def image_for(self, arch: str) -> Image:
        """Return what the reference names, for one kind of machine. Raises SourceError."""
        whose = str(self.image)
        digest, image_manifest = self.manifest_for(arch)
        manifest.check_is_container(image_manifest, whose)
        about = manifest.config_of(image_manifest, whose)
        if about.size > manifest.LARGEST_CONFIG:
            raise SourceError(
                f"{whose}: its configuration has {about.size:,} bytes",
                why=f"More than {manifest.LARGEST_CONFIG:,} bytes are not taken.",
                remedy="Find out who made the image, and have it repaired.",
            )
        blob = self.blob(about.digest, about.size, self.store.report)
        config = manifest.document(blob.read(), whose)
        manifest.check_machine(config, arch, whose)
        layers = manifest.layers(image_manifest, config, whose)
        return Image(whose, digest, about.digest, config, layers)

    def manifest_for(self, arch: str) -> tuple[str, Mapping[str, Any]]:
        """Return the manifest for one kind of machine, and its digest.

        Raises SourceError, also for an image that the host's policy does not let in.
        """
        whose = str(self.image)
        content = self._manifest(self.tag_or_digest)
        first = f"sha256:{content.sha256}"
        document = manifest.document(content.read(), whose)
        for _ in range(DEEPEST):
            if not manifest.is_index(document, whose):
                digest = f"sha256:{content.sha256}"
                digests = (digest, first)
                trust.check(trust.Subject(self.image, digests, self._signatures, self._simple))
                return digest, document
            descriptor = manifest.choose(document, arch, whose)
            content = self._manifest(descriptor.digest)
            _check_size(content, descriptor.size, f"{whose}: {descriptor.digest}")
            document = manifest.document(content.read(), whose)
        raise SourceError(f"{whose}: its index leads to no image", remedy="Choose another.")

    @contextmanager
    def opened(self, layers: Sequence[Layer]) -> Iterator[Read]:
        """Fetch layers, several at a time, for the time of a with-block; yield how to read one."""

        def bring(layer: Layer, report: Reporter) -> Fetched:
            return self.blob(layer.digest, layer.size, report)

        with LayerDownloads(layers, self.store, bring) as downloads:
            yield downloads.read

    def _signatures(self, digest: str) -> list[Signature]:
        """Fetch the signatures of a manifest, none if there are none. Raises SourceError."""
        rows = cosign.listed(self._document(cosign.tag(digest)) or {})
        report = self.store.report
        return [Signature(self.blob(d, size, report).read(), value) for d, size, value in rows]

    def _simple(self, digest: str) -> list[bytes]:
        """Bring GPG's signatures of a manifest, which lie elsewhere. Raises SourceError."""
        store = self.store
        return simple_signing.signatures(self.image, digest, store.path, store.report)

    def all_signatures(self, digest: str) -> list[RemoteSignature]:
        """Fetch all that is signed of a manifest, in cosign's forms. Raises SourceError."""
        rows = []
        for each in self._signatures(digest):
            with contextlib.suppress(ValueError):  # no base64, or no ASCII
                value = base64.b64decode(each.value, validate=True)
                place = cosign.tag(digest)
                rows.append(
                    RemoteSignature(cosign.PAYLOAD, each.payload, each.payload, value, place)
                )
        places = {attestation.tag(digest): attestation.ENVELOPE}
        places |= dict.fromkeys(self._referrers(digest), attestation.BUNDLE)
        room = attestation.MOST_BYTES
        for place, kind in places.items():
            for blob, size in manifest.blobs(self._document(place) or {}, kind):
                if size > min(attestation.LARGEST, room):
                    self.store.report.warn(f"{blob}: a statement of {size:,} bytes is not read")
                    continue
                room -= size
                content = self.blob(blob, size, self.store.report).read()
                name = place if kind == attestation.ENVELOPE else f"bundle {place}"
                rows += attestation.opened(content, name)
        return rows

    def _referrers(self, digest: str) -> list[str]:
        """Return the digests of the bundles that refer to a manifest."""
        try:
            content = self._fetch(f"referrers/{digest}", "", manifest.LARGEST, self.store.report)
            index = manifest.document(content.read(), f"{self.image}: its referrers")
        except NotFoundError:
            index = self._document(digest.replace(":", "-")) or {}
        # Where a registry keeps no list, cosign's library notes its manifests' empty configuration.
        kinds = (attestation.BUNDLE, manifest.EMPTY_TYPE, None)
        return manifest.referrers(index, kinds, cosign.MOST)

    def _document(self, tag_or_digest: str) -> Mapping[str, Any] | None:
        """Fetch a manifest, None if there is none. Raises SourceError."""
        try:
            content = self._manifest(tag_or_digest)
        except SourceError as error:
            if isinstance(error.__cause__, NotFoundError):
                return None
            raise
        return manifest.document(content.read(), f"{self.image}: {tag_or_digest}")

    def _manifest(self, tag_or_digest: str) -> Fetched:
        """Fetch a manifest by tag or digest, and remember where the tag led, for offline builds."""
        name, _, sha256 = tag_or_digest.rpartition(":")
        tag = tag_or_digest if name != "sha256" else ""
        if tag and is_offline():
            sha256 = self.store.recall(f"{self.image.registry}/{self.image.repository}:{tag}")
        digest = sha256 if not tag or is_offline() else ""
        try:
            url = f"manifests/{tag_or_digest}"
            fetched = self._fetch(url, digest, manifest.LARGEST, self.store.report)
        except NotFoundError as error:
            raise SourceError(
                f"{self.image}: the registry has no such image",
                # The distribution specification's words, which programs look for.
                why=f"{error.why} (manifest unknown)".strip(),
                remedy="Check the name and the tag.",
            ) from error
        if tag:
            name = f"{self.image.registry}/{self.image.repository}:{tag}"
            self.store.remember(name, fetched.sha256)
        return fetched

    def blob(self, digest: str, size: int, report: Reporter) -> Fetched:
        """Fetch a part of the image by its digest. Raises SourceError."""
        try:
            fetched = self._fetch(f"blobs/{digest}", digest.removeprefix("sha256:"), size, report)
        except NotFoundError as error:
            raise SourceError(
                f"{self.image}: the registry has lost {digest}, which is a part of it",
                why=error.why,
                remedy="Build again: a new image may just have replaced it. Else push it again.",
            ) from error
        _check_size(fetched, size, f"{self.image}: {digest}")
        return fetched

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


def _check_size(fetched: Fetched, size: int, what: str) -> None:
    if fetched.size != size:
        raise SourceError(
            f"{what}: has {fetched.size} bytes, not the {size} that the manifest tells",
            remedy="Find out who made the image, and have it repaired.",
        )
