"""A registry in memory with the referrers API, which Debian's docker-registry has not.

Source: github.com/opencontainers/distribution-spec, version 1.1: "Pull", "Push", "Listing
Referrers", "Content Discovery". It refuses what a registry has to refuse: a blob or a manifest
of another digest, and a manifest of which a part is missing.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.bench.docker_images import INDEX, sha256

NAME = "/v2/([a-z0-9._/-]+?)"


class Registry(ThreadingHTTPServer):
    """Repositories by name.

    manifests: by digest, with their types; tags: their digests; uploads: pieces, by path.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.name = f"127.0.0.1:{self.server_address[1]}"
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.tags: dict[tuple[str, str], str] = {}
        self.uploads: dict[str, bytes] = {}

    def referrers(self, name: str, digest: str) -> list[dict[str, Any]]:
        """Return the descriptors of the manifests whose subject has a digest."""
        rows = []
        for (repository, own), (kind, content) in self.manifests.items():
            document = json.loads(content)
            if (repository, document.get("subject", {}).get("digest")) == (name, digest):
                more = {"annotations": document["annotations"]} if "annotations" in document else {}
                artifact = document.get("artifactType") or document["config"]["mediaType"]
                about = {"mediaType": kind, "digest": own, "size": len(content)}
                rows.append({**about, "artifactType": artifact, **more})
        return rows


class Handler(BaseHTTPRequestHandler):
    server: Registry
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if address.path == "/v2/":
            self.answer(200)
        elif match := re.fullmatch(f"{NAME}/(blobs|manifests)/([^/]+)", address.path):
            self.content(match[1], match[2], match[3])
        elif match := re.fullmatch(f"{NAME}/referrers/(sha256:[0-9a-f]{{64}})", address.path):
            self.referrers(match[1], match[2], parse_qs(address.query))
        else:
            self.answer(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        place = f"{self.path}{len(self.server.uploads)}"
        self.server.uploads[place] = self.body()
        self.answer(202, Location=f"http://{self.server.name}{place}?state=x")

    def do_PATCH(self) -> None:
        place = urlsplit(self.path).path
        self.server.uploads[place] += self.body()
        end = len(self.server.uploads[place]) - 1
        self.answer(202, Location=f"http://{self.server.name}{place}?state=y", Range=f"0-{end}")

    def do_PUT(self) -> None:
        address, content = urlsplit(self.path), self.body()
        if match := re.fullmatch(f"{NAME}/manifests/([^/]+)", address.path):
            self.put_manifest(match[1], match[2], content)
        elif address.path in self.server.uploads:
            content = self.server.uploads[address.path] + content
            (digest,) = parse_qs(address.query)["digest"]
            if digest == sha256(content):
                name = address.path.removeprefix("/v2/").partition("/blobs/uploads/")[0]
                self.server.blobs[name, digest] = content
            self.answer(201 if digest == sha256(content) else 400)
        else:
            self.answer(404)

    def content(self, name: str, kind: str, reference: str) -> None:
        digest = self.server.tags.get((name, reference), reference)
        media_type = "application/octet-stream"
        if kind == "blobs":
            content = self.server.blobs.get((name, digest))
        else:
            media_type, content = self.server.manifests.get((name, digest), ("", None))
        if content is None:
            self.answer(404)
        else:
            self.answer(200, content, Content_Type=media_type, Docker_Content_Digest=digest)

    def referrers(self, name: str, digest: str, query: dict[str, list[str]]) -> None:
        rows, more = self.server.referrers(name, digest), {}
        if kinds := query.get("artifactType"):
            rows = [each for each in rows if each["artifactType"] in kinds]
            more["OCI_Filters_Applied"] = "artifactType"
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": rows}
        self.answer(200, json.dumps(index).encode(), Content_Type=INDEX, **more)

    def put_manifest(self, name: str, reference: str, content: bytes) -> None:
        digest, document = sha256(content), json.loads(content)
        parts = [document["config"], *document["layers"]] if "layers" in document else []
        is_whole = all((name, part["digest"]) in self.server.blobs for part in parts)
        if not is_whole or (":" in reference and reference != digest):
            self.answer(400)
            return
        self.server.manifests[name, digest] = (self.headers["Content-Type"], content)
        if ":" not in reference:
            self.server.tags[name, reference] = digest
        subject = document.get("subject", {}).get("digest")
        self.answer(201, **({"OCI_Subject": subject} if subject else {}))

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def registry() -> Iterator[Registry]:
    with Registry() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
