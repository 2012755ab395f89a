"""Registries on loopback: Debian's docker-registry, and one that misbehaves as told."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from tests.bench.docker_images import INDEX, MANIFEST, ContainerImage, sha256
from tests.bench.host import wait_until

PROGRAM = "docker-registry"
Behaviour = Callable[["Handler"], None]


@contextmanager
def genuine(where: Path, extra: str = "") -> Iterator[str]:
    """Run docker-registry; yield its HOST:PORT. extra: more YAML, "tls:" indented by four."""
    if not shutil.which(PROGRAM):
        pytest.skip(f"{PROGRAM} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = where / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\n"
        f"storage: {{filesystem: {{rootdirectory: {where}/data}}}}\n"
        f"http:\n  addr: 127.0.0.1:{port}\n{extra}"
    )
    with subprocess.Popen(
        [PROGRAM, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_for(port)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens)


def push(image: ContainerImage, server: str, name: str, tag: str = "latest") -> None:
    """Put an image into a registry, as it is: distribution specification, "Push"."""
    base = f"http://{server}/v2/{name}"
    for digest, content in image.blobs.items():
        if digest != image.manifest:
            place = requests.post(f"{base}/blobs/uploads/", timeout=60).headers["Location"]
            answer = requests.put(place, params={"digest": digest}, data=content, timeout=60)
            answer.raise_for_status()
    put_manifest(image.blobs[image.manifest], MANIFEST, server, name, tag)


def put_manifest(content: bytes, media_type: str, server: str, name: str, tag: str) -> None:
    headers = {"Content-Type": media_type}
    url = f"http://{server}/v2/{name}/manifests/{tag}"
    requests.put(url, data=content, headers=headers, timeout=60).raise_for_status()


class Faulty(ThreadingHTTPServer):
    """Serves images from memory. behaviours: by a part of the path, in turn, the last for ever."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.name = f"127.0.0.1:{self.server_address[1]}"
        self.tags: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.behaviours: dict[str, list[Behaviour]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []

    def add(self, image: ContainerImage, tag: str = "latest") -> None:
        self.tags[tag] = image.blobs[image.manifest]
        self.blobs |= image.blobs

    def requests_to(self, part: str) -> list[dict[str, str]]:
        """The headers of the requests for paths with a part."""
        return [headers for path, headers in self.requests if part in path]

    def vanish(self) -> None:
        """Refuse connections from now on."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Faulty
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.path, headers))
        for part, behaviours in self.server.behaviours.items():
            if part in self.path:
                behaviour = behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]
                behaviour(self)
                return
        proper(self)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.do_GET()

    def do_POST(self) -> None:
        self.do_PUT()

    def do_PATCH(self) -> None:
        self.do_PUT()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *args: object) -> None:
        pass

    @property
    def content(self) -> bytes | None:
        """What the path names."""
        name = self.path.split("?")[0].rsplit("/", 1)[-1]
        return self.server.tags.get(name) or self.server.blobs.get(name)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


def proper(handler: Handler) -> None:
    """Answer as a registry does, ranges included."""
    content = handler.content
    if handler.path == "/v2/":
        handler.answer(200)
    elif content is None:
        handler.answer(404)
    elif byte_range := re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", "")):
        begin = int(byte_range[1])
        place = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        handler.answer(206, content[begin:], Content_Range=place)
    else:
        kind = INDEX if b'"manifests"' in content else MANIFEST
        handler.answer(200, content, Content_Type=kind, ETag=f'"{sha256(content)}"')


def status(code: int, body: bytes = b"", **headers: str) -> Behaviour:
    return lambda handler: handler.answer(code, body, **headers)


def breaks_after(count: int) -> Behaviour:
    """Promise everything, send a part, hang up."""

    def behave(handler: Handler) -> None:
        content = handler.content or b""
        handler.answer(200, content[:count], Content_Length=str(len(content)))
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)

    return behave


def stalls_after(count: int) -> Behaviour:
    """Send so many bytes of it and fall silent."""

    def behave(handler: Handler) -> None:
        content = handler.content or b""
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:count])
        handler.wfile.flush()
        time.sleep(30)

    return behave


def sends(body: bytes) -> Behaviour:
    return lambda handler: handler.answer(200, body)


@contextmanager
def faulty(port: int = 0) -> Iterator[Faulty]:
    with Faulty(port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
