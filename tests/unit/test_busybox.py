"""Finding and checking a busybox, without privilege: files, packages, loopback servers."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import singbuild_busybox_binary
from singbuild_busybox import singbuild_needs, singbuild_resolve

from singbuild import RecipeKeyError, SourceError
from tests.bench.backend_alone import Recorder, source

HOST = Path("/bin/busybox")
SHA256 = hashlib.sha256(HOST.read_bytes()).hexdigest()


def package(directory: Path, *files: tuple[Path, str]) -> Path:
    """Build a Debian package with dpkg-deb."""
    tree = directory / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    control = (
        "Package: some-busybox\nVersion: 1:2-3\nArchitecture: all\nMaintainer: x\nDescription: x\n"
    )
    (tree / "DEBIAN/control").write_text(control)
    for file, place in files:
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tree / place)
    argv = [
        "dpkg-deb",
        "--build",
        "-Zgzip",
        "--root-owner-group",
        str(tree),
        str(directory / "package"),
    ]
    subprocess.run(argv, check=True, capture_output=True)
    return directory / "package"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve ``tmp_path/served``; yields its URL."""
    (tmp_path / "served").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = partial(Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_static_busybox_of_the_host_is_found(tmp_path: Path) -> None:
    pins = singbuild_resolve(source(tmp_path))
    assert pins["from"] == "host"
    assert pins["sha256"] == SHA256
    assert pins["version"] in subprocess.check_output(["busybox"], text=True)
    assert (tmp_path / SHA256).read_bytes() == HOST.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [SHA256]


@pytest.mark.parametrize("form", [str, Path.as_uri])
def test_a_binary_of_the_host_may_be_named(tmp_path: Path, form: type[str]) -> None:
    file = shutil.copy(HOST, tmp_path / "my busybox")
    pins = singbuild_resolve(source(tmp_path, MirrorURL=form(Path(file)), SHA256=SHA256.upper()))
    assert pins["sha256"] == SHA256


def test_a_path_is_relative_to_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(HOST, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert singbuild_resolve(source(tmp_path, MirrorURL="mine"))["from"] == "file"


def test_a_binary_is_downloaded(tmp_path: Path, server: str) -> None:
    shutil.copy(HOST, tmp_path / "served/busybox-x86_64")
    pins = singbuild_resolve(source(tmp_path, MirrorURL=f"{server}/busybox-x86_64", SHA256=SHA256))
    assert (pins["from"], pins["sha256"]) == ("URL", SHA256)


@pytest.mark.parametrize("place", ["bin/busybox", "usr/bin/busybox"])
def test_a_package_is_told_by_its_content(tmp_path: Path, server: str, place: str) -> None:
    deb = package(tmp_path, (HOST, place))
    sha256 = hashlib.sha256(deb.read_bytes()).hexdigest()
    deb.rename(tmp_path / "served/anything")
    pins = singbuild_resolve(source(tmp_path, MirrorURL=f"{server}/anything", SHA256=sha256))
    assert pins["sha256"] == SHA256
    assert pins["package"] == "some-busybox"
    assert pins["package_version"] == "1:2-3"
    assert pins["package_sha256"] == sha256


def test_a_wrong_digest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="wrong SHA-256") as caught:
        singbuild_resolve(source(tmp_path, MirrorURL=str(HOST), SHA256="0" * 64))
    assert "0" * 64 in caught.value.why
    assert SHA256 in caught.value.why


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"MirrorURL": str(HOST), "SHA256": "abc"}, "not 64 hexadecimal digits"),
        ({"SHA256": SHA256}, "without a file"),
    ],
)
def test_a_digest_that_makes_no_sense_is_the_recipes_fault(
    tmp_path: Path, keywords: dict[str, str], says: str
) -> None:
    with pytest.raises(RecipeKeyError, match=says) as caught:
        singbuild_resolve(source(tmp_path, **keywords))
    assert caught.value.keyword == "SHA256"


def patched(directory: Path, old: bytes, new: bytes) -> Path:
    file = directory / "patched"
    file.write_bytes(HOST.read_bytes().replace(old, new))
    return file


def test_what_is_no_static_busybox_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("#!/bin/sh\n")
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(HOST.read_bytes()[:100_000])
    (tmp_path / "header").write_bytes(HOST.read_bytes()[:70])
    other = patched(tmp_path, b"BusyBox v", b"CrazyBox ")
    for file, says in {
        "/bin/ls": "dynamically linked",
        str(other): "not busybox",
        str(tmp_path / "text"): "not a program",
        str(tmp_path / "empty"): "not a program",
        str(tmp_path / "header"): "not a program",
        str(tmp_path / "short"): "truncated",
        str(tmp_path / "absent"): "no such file",
    }.items():
        with pytest.raises(SourceError, match=says) as caught:
            singbuild_resolve(source(tmp_path, MirrorURL=file))
        assert file in caught.value.what


def test_another_machines_busybox_is_refused(tmp_path: Path) -> None:
    other = "s390x" if os.uname().machine != "s390x" else "x86_64"
    with pytest.raises(SourceError, match="another machine") as caught:
        singbuild_resolve(source(tmp_path, arch=other, MirrorURL=str(HOST)))
    assert other in caught.value.why


def test_a_package_without_busybox_is_refused(tmp_path: Path) -> None:
    deb = package(tmp_path, (Path("/etc/hostname"), "usr/share/doc/busybox.txt"))
    with pytest.raises(SourceError, match="holds no busybox"):
        singbuild_resolve(source(tmp_path, MirrorURL=str(deb)))


@pytest.mark.parametrize("length", [8, 100, 500, 500_000])
def test_a_damaged_package_is_refused(tmp_path: Path, length: int) -> None:
    deb = package(tmp_path, (HOST, "bin/busybox"))
    deb.write_bytes(deb.read_bytes()[:length])
    with pytest.raises(SourceError, match="damaged Debian package"):
        singbuild_resolve(source(tmp_path, MirrorURL=str(deb)))


def test_an_unreachable_server_is_named(tmp_path: Path, server: str) -> None:
    with pytest.raises(SourceError, match=f"{server}/nothing: does not exist"):
        singbuild_resolve(source(tmp_path, MirrorURL=f"{server}/nothing"))


def test_an_unknown_package_comes_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no-such-package-anywhere") as caught:
        singbuild_resolve(source(tmp_path, MirrorURL="no-such-package-anywhere"))
    assert "Unable to locate package" in caught.value.why
    assert "apt-get update" in caught.value.remedy


@pytest.mark.network
def test_a_package_comes_through_apt_and_is_kept(tmp_path: Path) -> None:
    first = source(tmp_path, MirrorURL="busybox-static")
    pins = singbuild_resolve(first)
    assert (pins["from"], pins["package"]) == ("package", "busybox-static")
    assert hashlib.sha256((tmp_path / pins["package_sha256"]).read_bytes()).hexdigest()
    again = source(tmp_path, MirrorURL="busybox-static", SHA256=pins["package_sha256"])
    assert singbuild_resolve(again) == pins
    assert isinstance(first.report, Recorder)
    assert isinstance(again.report, Recorder)
    assert any("busybox-static" in line for line in first.report.lines)
    assert not again.report.lines
    assert list((tmp_path / "apt").iterdir()) == []
    with pytest.raises(SourceError, match="wrong SHA-256"):
        singbuild_resolve(source(tmp_path, MirrorURL="busybox-static", SHA256="0" * 64))


@pytest.mark.network
def test_without_a_static_busybox_on_the_host_debians_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/apt-get").symlink_to("/usr/bin/apt-get")
    shutil.copy("/bin/ls", tmp_path / "bin/busybox")  # there, but dynamic
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(singbuild_busybox_binary, "ON_HOST", ())
    pins = singbuild_resolve(source(tmp_path / "bin"))
    assert (pins["from"], pins["package"]) == ("package", "busybox-static")


def test_a_host_without_apt_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(singbuild_busybox_binary, "ON_HOST", ())
    with pytest.raises(SourceError, match="busybox-static cannot be had") as caught:
        singbuild_resolve(source(tmp_path))
    assert "apt-get" in caught.value.why
    assert "MirrorURL" in caught.value.remedy


def test_all_keywords_are_described() -> None:
    assert {word.name for word in singbuild_needs().keywords} == {"MirrorURL", "SHA256"}
    assert all(word.help and not word.required for word in singbuild_needs().keywords)


def test_a_program_by_plain_http_needs_a_digest(tmp_path: Path) -> None:
    url = "http://m.example/busybox"
    with pytest.raises(RecipeKeyError, match="comes over plain http") as caught:
        singbuild_resolve(source(tmp_path, MirrorURL=url))
    assert "SHA256" in caught.value.remedy
    request = source(tmp_path, MirrorURL=url)
    for locked in ({"sha256": "no digest"}, {"sha256": 5}):
        with pytest.raises(RecipeKeyError, match="comes over plain http"):
            singbuild_resolve(replace(request, locked=locked))


@pytest.mark.parametrize("brings", [True, False])
def test_only_what_apt_brings_now_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brings: bool
) -> None:
    """A build that was killed has left others."""
    apt = tmp_path / "bin/apt-get"
    apt.parent.mkdir()
    apt.write_text(f"#!/bin/sh\n[ $# = 3 ] || {'printf new > new.deb' if brings else ':'}\n")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apt.parent}:{os.environ['PATH']}")
    (tmp_path / "apt").mkdir()
    for number in range(8):
        (tmp_path / f"apt/old-{number}.deb").write_bytes(b"old")
    if brings:
        assert singbuild_busybox_binary._package("a", source(tmp_path)) == b"new"
    else:
        with pytest.raises(SourceError, match="cannot be had from this host's apt"):
            singbuild_busybox_binary._package("a", source(tmp_path))
    assert list((tmp_path / "apt").iterdir()) == []
