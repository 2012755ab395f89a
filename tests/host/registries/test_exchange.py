"""Images to registries and from them, as files and as layers; and files from web servers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from singbuild_docker import oras
from singbuild_docker.reference import Reference
from singbuild_docker.upload import Upload

from singbuild.testing.engine import Recorder
from tests.bench import singrun_images as images
from tests.bench.builds import SINGBUILD
from tests.bench.docker_registry import (
    Handler,
    faulty,
    genuine,
    sends,
    status,
)
from tests.bench.docker_source import source

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image with labels."""
    directory = tmp_path_factory.mktemp("image")
    tree = images.fill(directory / "tree")
    (tree / ".singularity.d/labels.json").write_text('{"Lab": "of Ada"}')
    return images.ext3(tree, directory / "tool.img")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with genuine(tmp_path_factory.mktemp("registry")) as name:
        yield name


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run the command with settings of its own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*SINGBUILD, *map(str, words)],
            cwd=tmp_path,
            input=more.pop("stdin", ""),
            env=os.environ | more,
            capture_output=True,
            text=True,
        )

    return run


def manifest(registry: str, repository: str, tag: str) -> dict[str, Any]:
    url = f"http://{registry}/v2/{repository}/manifests/{tag}"
    answer = requests.get(url, headers={"Accept": f"{MANIFEST}, {INDEX}"}, timeout=60)
    answer.raise_for_status()
    document: dict[str, Any] = answer.json()
    return document


def test_a_file_comes_back_to_the_bit(
    registry: str, image: Path, tmp_path: Path, call: Call
) -> None:
    pushed = call("push", "-q", image, f"oras://{registry}/lab/tool:1")
    assert pushed.returncode == 0, pushed.stderr
    document = manifest(registry, "lab/tool", "1")
    assert document["annotations"]["Lab"] == "of Ada"
    (layer,) = document["layers"]
    assert layer["mediaType"] == "application/vnd.singbuild.image.layer.v1.ext3"
    assert layer["annotations"]["org.opencontainers.image.title"] == "tool.img"
    pulled = call("pull", f"oras://{registry}/lab/tool:1", "back.img")
    assert pulled.returncode == 0, pulled.stderr
    assert (tmp_path / "back.img").read_bytes() == image.read_bytes()
    assert (tmp_path / "back.img").stat().st_mode & 0o111
    by_digest = call("pull", f"oras://{registry}/lab/tool@{pushed.stdout.strip()}")
    assert by_digest.returncode == 0, by_digest.stderr
    assert (tmp_path / "tool.img").read_bytes() == image.read_bytes()
    again = call("pull", f"oras://{registry}/lab/tool:1", "back.img")
    assert again.returncode == 8
    assert "back.img exists" in again.stderr


def test_equal_images_get_equal_manifests(registry: str, image: Path, call: Call) -> None:
    one = call("push", "-q", image, f"oras://{registry}/lab/one:1").stdout
    other = call("push", "-q", image, f"oras://{registry}/lab/other:2").stdout
    assert one == other != ""


def test_what_is_sent_goes_by_one_connection(
    registry: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "urllib3")
    upload = Upload(Reference(registry, "lab/parts", "1"), Recorder(), insecure=False)
    digests = [upload.content(part) for part in (b"one", b"two", b"two")]
    new = [each for each in caplog.messages if each.startswith("Starting new HTTP connection")]
    assert len(new) == 2, caplog.messages  # the first asks whether it is http or https
    for digest, part in zip(digests, (b"one", b"two", b"two"), strict=True):
        url = f"http://{registry}/v2/lab/parts/blobs/{digest}"
        assert requests.get(url, timeout=60).content == part


def test_a_registry_gets_no_cookie_back() -> None:
    place = "/v2/lab/parts/blobs/uploads/1"
    with faulty() as server:
        server.behaviours["uploads/"] = [status(202, Location=place, Set_Cookie="sid=1; Path=/")]
        Upload(Reference(server.name, "lab/parts", "1"), Recorder(), insecure=False).content(b"one")
        assert len(server.requests_to("uploads/")) == 2
        assert not any("cookie" in headers for _, headers in server.requests)


def test_a_file_that_vanishes_before_it_is_sent(registry: str, tmp_path: Path) -> None:
    place = source(tmp_path, f"{registry}/lab/gone:1")
    with pytest.raises(FileNotFoundError, match=r"gone\.sif"):
        oras.singbuild_put(tmp_path / "gone.sif", "sif", place, {}, "gone.sif")


def test_a_bill_of_materials_goes_with_it(registry: str, image: Path, call: Call) -> None:
    for scheme in ("oras", "docker"):
        name = f"lab/billed-{scheme}"
        digest = call("push", "-q", image, f"{scheme}://{registry}/{name}:1").stdout.strip()
        # This registry knows no referrers: an index by the digest's name stands for them.
        (entry,) = manifest(registry, name, digest.replace(":", "-"))["manifests"]
        assert entry["artifactType"] == "application/spdx+json"
        document = manifest(registry, name, entry["digest"])
        assert document["subject"]["digest"] == digest
        (layer,) = document["layers"]
        url = f"http://{registry}/v2/{name}/blobs/{layer['digest']}"
        assert requests.get(url, timeout=60).json()["spdxVersion"] == "SPDX-2.3"
        call("push", "-q", image, f"{scheme}://{registry}/{name}:2")
        assert len(manifest(registry, name, digest.replace(":", "-"))["manifests"]) == 1


def test_without_a_bill(registry: str, image: Path, call: Call) -> None:
    call("push", "-q", "--no-sbom", image, f"oras://{registry}/lab/plain:1")
    tags = requests.get(f"http://{registry}/v2/lab/plain/tags/list", timeout=60).json()["tags"]
    assert tags == ["1"]


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_a_container_image_of_it(registry: str, image: Path, call: Call, packing: str) -> None:
    uri = f"docker://{registry}/lab/container:{packing}"
    pushed = call("push", "-q", "--compression", packing, image, uri)
    assert pushed.returncode == 0, pushed.stderr
    document = manifest(registry, "lab/container", packing)
    (layer,) = document["layers"]
    assert layer["mediaType"] == f"application/vnd.oci.image.layer.v1.tar+{packing}"
    config = document["config"]["digest"]
    about = requests.get(f"http://{registry}/v2/lab/container/blobs/{config}", timeout=60).json()
    assert about["config"]["Labels"] == {"Lab": "of Ada"}
    again = call("push", "-q", "--compression", packing, image, uri)
    assert again.stdout == pushed.stdout


def test_one_is_told_of_the_other(registry: str, image: Path, call: Call) -> None:
    call("push", "-q", image, f"oras://{registry}/lab/file:1")
    call("push", "-q", image, f"docker://{registry}/lab/layers:1")
    outcome = call("pull", f"docker://{registry}/lab/file:1", "a.img")
    assert outcome.returncode == 6
    assert "is a file, of the format ext3" in outcome.stderr
    assert f"oras://{registry}/lab/file:1" in outcome.stderr
    outcome = call("pull", f"oras://{registry}/lab/layers:1", "a.img")
    assert outcome.returncode == 6
    assert f"docker://{registry}/lab/layers:1" in outcome.stderr


def test_what_is_no_image_is_not_taken(tmp_path: Path, call: Call) -> None:
    content = b"<html>no image</html>" * 400
    with faulty() as server:
        server.behaviours["/v1/images/"] = [sends(library_answer(content))]
        server.behaviours["/v1/imagefile/"] = [sends(content)]
        library = f"http://{server.name}"
        outcome = call("pull", "library://lab/tool", "a.img", SINGBUILD_LIBRARY=library)
    assert outcome.returncode == 8
    assert "is not an image" in outcome.stderr
    assert not (tmp_path / "a.img").exists()


def library_answer(content: bytes, digits: str = "") -> bytes:
    digits = digits or hashlib.sha256(content).hexdigest()
    return json.dumps({"data": {"hash": f"sha256.{digits}", "size": len(content)}}).encode()


def test_a_library(image: Path, tmp_path: Path, call: Call) -> None:
    content = image.read_bytes()
    with faulty() as server:
        server.behaviours["/v1/images/lab/default/tool:2?arch=amd64"] = [
            sends(library_answer(content))
        ]
        server.behaviours["/v1/imagefile/lab/default/tool:2?arch=amd64"] = [sends(content)]
        done = call(
            "pull",
            "library://lab/default/tool:2",
            "a.img",
            SINGBUILD_LIBRARY=f"http://{server.name}",
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "a.img").read_bytes() == content
        server.behaviours["/v1/images/lab/default/bad:1"] = [
            sends(library_answer(content, "0" * 64))
        ]
        server.behaviours["/v1/imagefile/lab/default/bad:1"] = [sends(content)]
        outcome = call(
            "pull",
            "library://lab/default/bad:1",
            "b.img",
            SINGBUILD_LIBRARY=f"http://{server.name}",
        )
    assert outcome.returncode == 6
    assert "has the wrong SHA-256" in outcome.stderr
    assert not (tmp_path / "b.img").exists()


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"data": 1}', b'{"data": {"hash": "sha256.1"}}', b"[" * 100_000, b"\xff"],
    ids=repr,
)
def test_a_library_that_lies(answer: bytes, tmp_path: Path, call: Call) -> None:
    with faulty() as server:
        server.behaviours["/v1/images/"] = [sends(answer)]
        outcome = call(
            "pull", "library://lab/tool", "a.img", SINGBUILD_LIBRARY=f"http://{server.name}"
        )
    assert outcome.returncode == 6, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not (tmp_path / "a.img").exists()


def test_a_hub(image: Path, tmp_path: Path, call: Call) -> None:
    content = image.read_bytes()
    with faulty() as server:
        place = f"http://{server.name}/files/1.img"
        server.behaviours["/api/container/ada/tool:latest"] = [
            sends(json.dumps({"image": place}).encode())
        ]
        server.behaviours["/files/1.img"] = [sends(content)]
        done = call("pull", f"shub://{server.name}/ada/tool")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "tool.img").read_bytes() == content
        for lie in (
            {"image": "file:///etc/passwd"},
            {"image": 7},
            {},
            {"image": "http://192.0.2.1/x"},
        ):
            server.behaviours["/api/container/ada/lie:latest"] = [sends(json.dumps(lie).encode())]
            outcome = call("pull", f"shub://{server.name}/ada/lie", "b.img")
            assert outcome.returncode == 6
            assert "no place for it that can be trusted" in outcome.stderr


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("library://ubuntu:22.04", "docker://NAME:TAG"),
        ("shub://ada/tool", "was closed in 2021"),
        ("https://192.0.2.1/a.sif#sha256=12", "64 hex digits"),
        ("ftp://192.0.2.1/a.sif", "does not name an image"),
        ("oras://Registry/UPPER", "is no repository"),
    ],
)
def test_a_name_that_says_too_little(uri: str, words: str, call: Call) -> None:
    outcome = call("pull", uri, "a.img")
    assert outcome.returncode in (2, 3)
    assert words in outcome.stderr


def test_a_registry_that_takes_nothing(image: Path, call: Call) -> None:
    with faulty() as server:
        server.behaviours["/v2/lab/tool/blobs/"] = [status(404)]
        outcome = call("push", "-q", image, f"oras://{server.name}/lab/tool:1")
        assert outcome.returncode == 6
        assert "cannot be pushed" in outcome.stderr
        assert "Traceback" not in outcome.stderr


def test_a_registry_sends_nobody_elsewhere_with_a_password(
    image: Path, call: Call, tmp_path: Path
) -> None:
    with faulty() as server, faulty() as other:

        def start(handler: Handler) -> None:
            if "authorization" not in {name.lower() for name in handler.headers}:
                handler.answer(401, WWW_Authenticate='Basic realm="lab"')
            elif handler.command == "HEAD":
                handler.answer(404)
            else:
                handler.answer(202, Location=f"http://{other.name}/upload?state=1")

        server.behaviours["/v2/lab/tool/blobs/"] = [start]
        other.behaviours["/upload"] = [status(201)]
        call(
            "push",
            "-q",
            image,
            f"oras://{server.name}/lab/tool:1",
            SINGBUILD_DOCKER_USERNAME="ada",
            SINGBUILD_DOCKER_PASSWORD="secret",
        )
        assert any("authorization" in headers for _, headers in server.requests)
        assert other.requests
        assert not any("authorization" in headers for _, headers in other.requests)


def test_pushed_by_others(registry: str, image: Path, tmp_path: Path, call: Call) -> None:
    """The old misspelling, two layers, an unknown type."""
    content = image.read_bytes()
    base = f"http://{registry}/v2/lab/theirs"
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    for each, body in ((digest, content), (f"sha256:{hashlib.sha256(b'{}').hexdigest()}", b"{}")):
        place = requests.post(f"{base}/blobs/uploads/", timeout=60).headers["Location"]
        requests.put(place, params={"digest": each}, data=body, timeout=60).raise_for_status()

    def put(tag: str, *types: str) -> None:
        layers = [{"mediaType": t, "digest": digest, "size": len(content)} for t in types]
        config = {
            "mediaType": "application/vnd.unknown.config.v1+json",
            "digest": f"sha256:{hashlib.sha256(b'{}').hexdigest()}",
            "size": 2,
        }
        text = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        headers = {"Content-Type": MANIFEST}
        requests.put(
            f"{base}/manifests/{tag}", data=json.dumps(text), headers=headers, timeout=60
        ).raise_for_status()

    old = "appliciation/vnd.sylabs.sif.layer.tar"
    put("old", old)
    put("two", old, old)
    put("strange", "application/x-tar")
    assert call("pull", f"oras://{registry}/lab/theirs:old", "a.img").returncode == 0
    assert (tmp_path / "a.img").read_bytes() == content
    for tag in ("two", "strange"):
        outcome = call("pull", f"oras://{registry}/lab/theirs:{tag}", "b.img")
        assert outcome.returncode == 6
        assert "is no image that can be run" in outcome.stderr
