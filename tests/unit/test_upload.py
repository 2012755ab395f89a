"""A file on its way to a registry while its digest is computed."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from singbuild_docker.file_digest import FileDigest
from singbuild_docker.reference import Reference
from singbuild_docker.upload import Upload

from singbuild import SourceError
from singbuild.testing.engine import Recorder
from tests.bench.docker_registry import faulty, genuine, status

SIZE = 5 << 20  # bytes: five pieces


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with genuine(tmp_path_factory.mktemp("registry")) as name:
        yield name


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.sif"
    path.write_bytes(random.Random().randbytes(SIZE))
    return path


class LateDigest(FileDigest):
    """One whose file is read when told."""

    def __init__(self, path: Path) -> None:
        self.may_begin = threading.Event()
        super().__init__(path)

    def run(self) -> None:
        assert self.may_begin.wait(60)
        super().run()


class Watcher(Recorder):
    """Calls a function when so many bytes of a file were read to be sent."""

    def __init__(self, count: int, function: Callable[[], object]) -> None:
        super().__init__()
        self.count, self.function, self.sent = count, function, [0]

    def progress(self, label: str, done: int, total: int) -> None:
        super().progress(label, done, total)
        self.sent.append(done)
        if done == self.count:
            self.function()


def send(path: Path, registry: str, count: int) -> tuple[str, Watcher]:
    """Send a file whose digest is computed when ``count`` bytes were read; digest, what was."""
    digest = LateDigest(path)

    def compute() -> None:
        digest.may_begin.set()
        digest.join()

    watcher = Watcher(count, compute)
    Upload(Reference(registry, "lab/large", "1"), watcher, insecure=False).file_beside(digest)
    return digest.result(), watcher


def stored(registry: str, digest: str) -> bytes:
    url = f"http://{registry}/v2/lab/large/blobs/sha256:{digest}"
    answer = requests.get(url, timeout=60)
    assert answer.ok
    return answer.content


@pytest.mark.parametrize("count", [1 << 20, SIZE])
def test_a_file_is_sent_while_its_digest_is_computed(registry: str, file: Path, count: int) -> None:
    digest, watcher = send(file, registry, count)
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert stored(registry, digest) == file.read_bytes()
    assert watcher.sent == [each << 20 for each in range(6)]


def test_a_file_that_is_there_is_sent_no_further(registry: str, file: Path) -> None:
    digest, _ = send(file, registry, SIZE)
    again, watcher = send(file, registry, 2 << 20)
    assert again == digest
    assert watcher.sent == [0, 1 << 20, 2 << 20, SIZE]
    assert stored(registry, digest) == file.read_bytes()


def test_one_whose_digest_is_known_is_not_sent_at_all(registry: str, file: Path) -> None:
    send(file, registry, SIZE)
    digest, watcher = FileDigest(file), Watcher(-1, list)
    digest.join()
    Upload(Reference(registry, "lab/large", "1"), watcher, insecure=False).file_beside(digest)
    assert watcher.sent == [0, SIZE]


def test_what_breaks_off_is_sent_again(file: Path) -> None:
    place = "/v2/lab/large/blobs/uploads/1"
    accepted = status(202, Location=place)
    with faulty() as server:
        server.behaviours["uploads/"] = [accepted, status(503), accepted, status(201)]
        digest, watcher = send(file, server.name, 3 << 20)
        assert watcher.sent[-1] == SIZE
        (last,) = [path for path, _ in server.requests if "digest=" in path]
        assert last == f"{place}?digest=sha256%3A{digest}"


def test_what_changes_meanwhile_is_refused(registry: str, file: Path) -> None:
    digest = LateDigest(file)

    def change() -> None:
        with file.open("r+b") as changed:
            changed.write(b"changed")
        digest.may_begin.set()
        digest.join()

    watcher = Watcher(SIZE, change)
    upload = Upload(Reference(registry, "lab/changed", "1"), watcher, insecure=False)
    with pytest.raises(SourceError, match="cannot be pushed"):
        upload.file_beside(digest)


def test_a_manifest_whose_size_is_no_number_is_not_described() -> None:
    with faulty() as server:
        server.behaviours["manifests/"] = [status(200, Content_Length="9" * 5000)]
        upload = Upload(Reference(server.name, "lab/large", "1"), Recorder(), insecure=False)
        with pytest.raises(SourceError, match="lab/large") as caught:
            upload._described("sha256:" + "0" * 64)
        assert "size" in caught.value.why
