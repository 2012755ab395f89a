"""Puts blobs and manifests into a registry.

Source: github.com/opencontainers/distribution-spec, "Push". A blob that is there is not sent
again; one that breaks off is sent anew, as only some registries take up the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode, urljoin, urlsplit

import requests
import urllib3.exceptions

from singbuild import Reporter, SourceError
from singbuild.download import (
    TIMEOUT,
    TryAgainError,
    broken,
    is_offline,
    named_by,
    origin,
    passed,
    refused,
    retried,
)
from singbuild_docker import cosign, manifest
from singbuild_docker.authorization import PUSH
from singbuild_docker.mirrors import places
from singbuild_docker.reference import Reference
from singbuild_docker.site import Site

OCI_MANIFEST, OCI_INDEX = manifest.MANIFESTS[0], manifest.INDEXES[0]
_CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY, EMPTY_TYPE = b"{}", "application/vnd.oci.empty.v1+json"
# Seconds to connect, and for the answer: a registry computes the digest of the whole blob first.
_ANSWER = (TIMEOUT[0], 600.0)


class Upload:
    """An image on its way into its registry; never into a mirror of it.

    insecure: see Registry. Raises SourceError, as all its methods do.
    """

    def __init__(self, image: Reference, report: Reporter, *, insecure: bool) -> None:
        if is_offline():
            raise SourceError(
                f"{image}: cannot be pushed",
                why="SINGBUILD_OFFLINE is set.",
                remedy="Unset it.",
            )
        self.image, self.report = image, report
        self._site = Site(places(image, insecure=insecure)[-1], PUSH)
        self._base = self._site.connect(report)

    def file(self, path: Path, sha256: str, size: int) -> None:
        """Send a file. Its digest is the one that the registry is told, and computes itself."""

        def attempt() -> None:
            with path.open("rb") as file:
                self._blob(file, f"sha256:{sha256}", size)

        retried(attempt, self.report, sha256[:12])

    def content(self, content: bytes) -> str:
        """Send a small blob, such as a configuration; return its digest."""
        digest = digest_of(content)
        retried(
            lambda: self._blob(io.BytesIO(content), digest, len(content)),
            self.report,
            digest[7:19],
        )
        return digest

    def manifest(self, content: bytes, media_type: str, tag: str = "") -> bool:
        """Send a manifest under a tag, or under its digest alone.

        Return whether the registry has noted its subject, if it has one.
        """
        name = tag or digest_of(content)
        headers = {"Content-Type": media_type}

        def attempt() -> bool:
            url = f"{self._base}/manifests/{name}"
            with self._send("PUT", url, data=content, headers=headers) as answer:
                return "OCI-Subject" in answer.headers

        return retried(attempt, self.report, name)

    def attach(self, digest: str, kind: str, content: bytes) -> str:
        """Send a document about a manifest that is there; return the digest of its own manifest.

        Source: distribution specification, "Pushing Manifests with Subject" and "Referrers Tag
        Schema".
        """
        subject = self._described(digest)
        text = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": kind,
            "config": {"mediaType": EMPTY_TYPE, "digest": self.content(EMPTY), "size": len(EMPTY)},
            "layers": [{"mediaType": kind, "digest": self.content(content), "size": len(content)}],
            "subject": subject,
        }
        document = json.dumps(text, sort_keys=True).encode()
        entry = {
            "mediaType": OCI_MANIFEST,
            "digest": digest_of(document),
            "size": len(document),
            "artifactType": kind,
        }
        if not self.manifest(document, OCI_MANIFEST):
            self._add_referrer(digest.replace(":", "-"), entry)
        return str(entry["digest"])

    def sign(self, digest: str, key: Path) -> str:
        """Add a signature of a manifest that is there, as cosign does; return its payload's digest.

        key: a private key in PEM. Raises HostError for one that cannot be used.
        """
        text = cosign.payload(f"{self.image.registry}/{self.image.repository}", digest)
        layer = {
            "mediaType": cosign.PAYLOAD,
            "digest": digest_of(text),
            "size": len(text),
            "annotations": {cosign.ANNOTATION: cosign.signed(text, key)},
        }
        tag = cosign.tag(digest)
        layers = [*(each for each in self._layers(tag) if each != layer), layer]
        self.content(text)
        about = cosign.config([each["digest"] for each in layers])
        config = {"mediaType": _CONFIG, "digest": self.content(about), "size": len(about)}
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config}
        self.manifest(json.dumps({**document, "layers": layers}).encode(), OCI_MANIFEST, tag)
        return str(layer["digest"])

    def _layers(self, tag: str) -> list[Any]:
        """Return the layers of a manifest of signatures, none if there is none."""
        with self._send("GET", f"{self._base}/manifests/{tag}", allow_missing=True) as answer:
            if not answer.ok:
                return []
            content = answer.raw.read(manifest.LARGEST + 1, decode_content=True)
        image_manifest = manifest.document(content[: manifest.LARGEST], f"{self.image}: {tag}")
        known = {digest for digest, _, _ in cosign.listed(image_manifest)}
        layers = image_manifest.get("layers")
        return [e for e in layers if e.get("digest") in known] if isinstance(layers, list) else []

    def _described(self, digest: str) -> dict[str, object]:
        """Return the descriptor of a manifest that the registry has."""
        with self._send("HEAD", f"{self._base}/manifests/{digest}") as answer:
            size, media_type = (
                answer.headers.get("Content-Length", ""),
                answer.headers.get("Content-Type"),
            )
        if not size.isdecimal():
            raise self._refused("the registry does not tell a manifest's size")
        return {"mediaType": media_type or OCI_MANIFEST, "digest": digest, "size": int(size)}

    def _add_referrer(self, tag: str, entry: dict[str, object]) -> None:
        """Add to the index under the referrers tag, where a registry has no referrers API."""
        entries: list[object] = []
        with self._send("GET", f"{self._base}/manifests/{tag}", allow_missing=True) as answer:
            if answer.ok:
                # From raw: requests' own content has no bound.
                content = answer.raw.read(manifest.LARGEST + 1, decode_content=True)
                old = manifest.document(content[: manifest.LARGEST], f"{self.image}: {tag}")
                value = old.get("manifests")
                entries = value if isinstance(value, list) else []
        if entry not in entries:
            index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, entry]}
            self.manifest(json.dumps(index, sort_keys=True).encode(), OCI_INDEX, tag)

    def _blob(self, file: BinaryIO, digest: str, size: int) -> None:
        label = digest[7:19]
        with self._send("HEAD", f"{self._base}/blobs/{digest}", allow_missing=True) as answer:
            if answer.ok:
                self.report.progress(label, size, size)
                return
        start = f"{self._base}/blobs/uploads/"
        with self._send("POST", start) as answer:
            place = self._place(answer, start)
        # The registry's own query holds the state of the upload, and has to be kept.
        joined = "&" if urlsplit(place).query else "?"
        url = f"{place}{joined}{urlencode({'digest': digest})}"
        # requests sends a body of no bytes from a stream as chunked, which registries refuse.
        body = _Progress(file, size, self.report, label) if size else b""
        headers = {"Content-Type": "application/octet-stream"}
        with self._send("PUT", url, data=body, headers=headers):
            pass

    def _place(self, answer: requests.Response, start: str) -> str:
        """Return where the registry wants the blob. It may be another host, but no worse one."""
        try:
            place = urljoin(start, answer.headers["Location"])
            before, after = origin(start), origin(place)
        except (KeyError, ValueError):
            raise self._refused("the registry names no place for a layer") from None
        if (before[0], after[0]) == ("https", "http") or after[0] not in ("http", "https"):
            raise self._refused(f"the registry wants it by {after[0]} at {after[1]}")
        return place

    def _refused(self, why: str) -> SourceError:
        remedy = "Tell who runs the registry, or use another one."
        return SourceError(f"{self.image}: cannot be pushed", why=why, remedy=remedy)

    def _send(
        self, method: str, url: str, *, allow_missing: bool = False, **what: Any
    ) -> requests.Response:
        """Send one request. Raises SourceError, and TryAgainError for what may pass."""
        try:
            with contextlib.ExitStack() as stack:
                session = stack.enter_context(self._site.session())
                if origin(url) != origin(self._base):
                    session.auth = None  # nobody elsewhere may know who we are
                    stack.enter_context(named_by(self._base))
                answer = session.request(
                    method, url, timeout=_ANSWER, allow_redirects=False, stream=True, **what
                )
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise self._explain(broken(url, error, 0)) from error
        missing = answer.status_code == requests.codes.not_found
        if not answer.ok and not (missing and allow_missing):
            raise self._explain(refused(url, answer))
        return answer

    def _explain(self, error: SourceError | TryAgainError) -> Exception:
        """Say of an error what it means here: errors of downloads say "cannot be fetched"."""
        cause = error.error if isinstance(error, TryAgainError) else error
        cause.what = f"{self.image}: cannot be pushed"
        return error


class _Progress:
    """A file that reports how much of it has been sent; requests asks for its length and place."""

    def __init__(self, file: BinaryIO, size: int, report: Reporter, label: str) -> None:
        self._file, self._size, self._report, self._label = file, size, report, label
        self.len = size  # requests.utils.super_len

    def read(self, count: int = -1) -> bytes:
        """Read; a connection asks for some kilobytes each time."""
        piece = self._file.read(count)
        self._report.progress(self._label, self._file.tell(), self._size)
        passed(len(piece))
        return piece

    def tell(self) -> int:
        """Return the place, so that requests can go back to it."""
        return self._file.tell()

    def seek(self, place: int) -> int:
        """Go back, for a request that is sent again with credentials."""
        return self._file.seek(place)

    def __iter__(self) -> _Progress:
        """Be a stream to requests, which asks whether a body can be iterated over."""
        return self

    def __next__(self) -> bytes:
        """Return the next piece."""
        if piece := self.read(1 << 20):
            return piece
        raise StopIteration


def digest_of(content: bytes) -> str:
    """Return the digest by which a registry knows content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
