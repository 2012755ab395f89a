"""Puts blobs and manifests into a registry.

Source: github.com/opencontainers/distribution-spec, "Push". A blob that is there is not sent
again; one that breaks off is sent anew, as only some registries take up the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
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
from singbuild_docker import attestation, cosign, manifest
from singbuild_docker.authorization import PUSH
from singbuild_docker.manifest import is_described
from singbuild_docker.mirrors import places
from singbuild_docker.reference import Reference
from singbuild_docker.site import Site

if TYPE_CHECKING:
    from singbuild_docker.file_digest import FileDigest
    from singbuild_docker.keys import PrivateKey

OCI_MANIFEST, OCI_INDEX = manifest.MANIFESTS[0], manifest.INDEXES[0]
_CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY = b"{}"
_BYTES = {"Content-Type": "application/octet-stream"}
_PIECE = 1 << 20  # bytes of a blob for one sendto(2)
_STATUS_TEXT = 1 << 12  # bytes of an answer that says no more; its connection is used again
_DIGITS = 20  # of a length; int() refuses some thousand of them
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
        self._session = self._site.session()  # one for all, so that connections are used again
        # A session of its web pages, by which some registry would ask for more than a token.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))

    def file(self, path: Path, sha256: str, size: int) -> None:
        """Send a file. Its digest is the one that the registry is told, and computes itself."""

        def attempt() -> None:
            with path.open("rb") as file:
                self._blob(file, f"sha256:{sha256}", size)

        retried(attempt, self.report, sha256[:12])

    def file_beside(self, digest: FileDigest) -> None:
        """Send a file while its digest is computed, until that tells that it is there already.

        To compute it first would take as long as a fast network takes for the file.
        """

        def attempt() -> None:
            with digest.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if digest.is_known():
                    self._blob(file, f"sha256:{digest.result()}", size)
                else:
                    self._blob_beside(file, digest, size)

        retried(attempt, self.report, digest.path.name)

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

    def attach(
        self, digest: str, kind: str, content: bytes, annotations: Mapping[str, str] | None = None
    ) -> str:
        """Send a document about a manifest that is there; return the digest of its own manifest.

        Source: distribution specification, "Pushing Manifests with Subject" and "Referrers Tag
        Schema".
        """
        subject = self._described(digest)
        more = {"annotations": dict(annotations)} if annotations else {}
        text = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": kind,
            "config": {
                "mediaType": manifest.EMPTY_TYPE,
                "digest": self.content(EMPTY),
                "size": len(EMPTY),
            },
            "layers": [{"mediaType": kind, "digest": self.content(content), "size": len(content)}],
            "subject": subject,
            **more,
        }
        document = json.dumps(text, sort_keys=True).encode()
        entry = {
            "mediaType": OCI_MANIFEST,
            "digest": digest_of(document),
            "size": len(document),
            "artifactType": kind,
            **more,
        }
        if not self.manifest(document, OCI_MANIFEST):
            self._add_referrer(digest.replace(":", "-"), entry)
        return str(entry["digest"])

    def sign(self, digest: str, key: PrivateKey, predicates: Mapping[str, Any]) -> str:
        """Sign a manifest that is there, and statements about it, in both of cosign's forms.

        predicates: by their types. Return the digest of the classic signature's payload.
        """
        name = f"{self.image.registry}/{self.image.repository}"
        text = cosign.payload(name, digest)
        layer = self._layer(text, cosign.PAYLOAD, {cosign.ANNOTATION: cosign.signed(text, key)})
        self._add_layers(cosign.tag(digest), [layer])
        layers = []
        for kind, predicate in {attestation.SIGNED: {}, **predicates}.items():
            envelope = attestation.envelope(name, digest, kind, predicate, key)
            self._attach_bundle(digest, kind, attestation.bundle(envelope, key))
            if kind != attestation.SIGNED:
                text, own = json.dumps(envelope).encode(), attestation.layer_annotations(kind, key)
                layers.append(self._layer(text, attestation.ENVELOPE, own))
        if layers:
            self._add_layers(attestation.tag(digest), layers)
        return str(layer["digest"])

    def _attach_bundle(self, digest: str, kind: str, content: bytes) -> None:
        """Attach a bundle; a registry that is too old for it has the classic form alone."""
        try:
            about = attestation.bundle_annotations(kind)
            self.attach(digest, attestation.BUNDLE, content, about)
        except SourceError as error:
            self.report.warn(f"no bundle of signatures is there: {error.what}: {error.why}")

    def _layer(self, content: bytes, kind: str, annotations: Mapping[str, str]) -> dict[str, Any]:
        """Send a blob; return its descriptor."""
        digest = self.content(content)
        what = {"mediaType": kind, "digest": digest, "size": len(content)}
        return what | {"annotations": dict(annotations)}

    def _add_layers(self, tag: str, new: Sequence[dict[str, Any]]) -> None:
        """Add to the layers of a manifest; one with the same annotations makes place."""
        ours = [each["annotations"] for each in new]
        layers = [each for each in self._layers(tag) if each.get("annotations") not in ours]
        layers = [*layers, *new]
        about = cosign.config([each["digest"] for each in layers])
        config = {"mediaType": _CONFIG, "digest": self.content(about), "size": len(about)}
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config}
        self.manifest(json.dumps({**document, "layers": layers}).encode(), OCI_MANIFEST, tag)

    def _layers(self, tag: str) -> list[dict[str, Any]]:
        """Return the layers of a manifest of signatures or attestations, none if there is none."""
        with self._send("GET", f"{self._base}/manifests/{tag}", allow_missing=True) as answer:
            if not answer.ok:
                return []
            content = answer.raw.read(manifest.LARGEST + 1, decode_content=True)
        document = manifest.document(content[: manifest.LARGEST], f"{self.image}: {tag}")
        layers = document.get("layers")
        kinds = (cosign.PAYLOAD, attestation.ENVELOPE)
        rows = [each for each in (layers if isinstance(layers, list) else []) if is_described(each)]
        return [each for each in rows if each["mediaType"] in kinds]

    def _described(self, digest: str) -> dict[str, object]:
        """Return the descriptor of a manifest that the registry has."""
        with self._send("HEAD", f"{self._base}/manifests/{digest}") as answer:
            size, media_type = (
                answer.headers.get("Content-Length", ""),
                answer.headers.get("Content-Type"),
            )
        if not size.isdecimal() or len(size) > _DIGITS:
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
        if self._has(digest):
            self.report.progress(label, size, size)
            return
        url = _with_digest(self._begin(), digest)
        # requests sends a body of no bytes from a stream as chunked, which registries refuse.
        body = _Progress(file, size, self.report, label) if size else b""
        with self._send("PUT", url, data=body, headers=_BYTES):
            pass

    def _blob_beside(self, file: BinaryIO, digest: FileDigest, size: int) -> None:
        """Send a blob as distribution specification, "Pushing a blob in chunks", has it: in one."""
        label = digest.path.name
        place = self._begin()

        def check() -> None:
            if self._has(f"sha256:{digest.result()}"):
                raise _PresentError

        body = _Progress(file, size, self.report, label, check, digest.is_known)
        try:
            with self._send("PATCH", place, data=body, headers=_BYTES) as answer:
                place = self._place(answer, place)
        except _PresentError:
            self.report.progress(label, size, size)
            with contextlib.suppress(SourceError, TryAgainError):  # it forgets by itself, later
                self._send("DELETE", place).close()
            return
        with self._send("PUT", _with_digest(place, f"sha256:{digest.result()}")):
            pass

    def _has(self, digest: str) -> bool:
        with self._send("HEAD", f"{self._base}/blobs/{digest}", allow_missing=True) as answer:
            return answer.ok

    def _begin(self) -> str:
        """Begin an upload; return where it is to go."""
        start = f"{self._base}/blobs/uploads/"
        with self._send("POST", start) as answer:
            return self._place(answer, start)

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
                session = self._session
                if origin(url) != origin(self._base):
                    session = stack.enter_context(self._site.session())
                    session.auth = None  # nobody elsewhere may know who we are
                    stack.enter_context(named_by(self._base))
                answer = session.request(
                    method, url, timeout=_ANSWER, allow_redirects=False, stream=True, **what
                )
                if method != "GET":
                    answer.raw.read(_STATUS_TEXT)
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
    """Pieces of a file, which report how much has been sent; requests asks for length and place.

    It has no ``read``, by which http.client would take 16 KiB at a time. check: called once
    between two of them, as soon as ``may_check`` says so.
    """

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        report: Reporter,
        label: str,
        check: Callable[[], None] | None = None,
        may_check: Callable[[], bool] = bool,
    ) -> None:
        self._file, self._size, self._report, self._label = file, size, report, label
        self._check, self._may_check = check, may_check
        self.len = size  # requests.utils.super_len

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
        if self._check and self._may_check():
            check, self._check = self._check, None
            check()
        piece = self._file.read(_PIECE)
        if not piece:
            raise StopIteration
        self._report.progress(self._label, self._file.tell(), self._size)
        passed(len(piece))
        return piece


class _PresentError(Exception):
    """The registry has what is being sent."""


def _with_digest(place: str, digest: str) -> str:
    # The registry's own query holds the state of the upload, and has to be kept.
    joined = "&" if urlsplit(place).query else "?"
    return f"{place}{joined}{urlencode({'digest': digest})}"


def digest_of(content: bytes) -> str:
    """Return the digest by which a registry knows content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
