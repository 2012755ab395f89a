"""The archive that debootstrap gets: the pinned packages, their data unpacked."""

from __future__ import annotations

import hashlib
import io
import lzma
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from debian.deb822 import Deb822, Packages
from debian.debfile import DebFile
from hypothesis import given
from hypothesis import strategies as st
from singbuild_debootstrap import local_archive

from singbuild import HostError, SourceError
from singbuild.download import Fetched, digest

needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg")
# Debian's dpkg-deb has it do the work.
needs_zstd = pytest.mark.skipif(not shutil.which("zstd"), reason="needs zstd")
CONTROL = "Package: {0}\nVersion: 1\nArchitecture: all\nDescription: of a test\n more\n"
PINS = {"architecture": "amd64", "suite": "bookworm", "codename": "bookworm"}


def package(directory: Path, name: str, kind: str, content: bytes = b"hello\n") -> Path:
    """A package of one file, as dpkg-deb packs it."""
    tree = directory / f"tree-{name}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(CONTROL.format(name))
    (tree / "file").write_bytes(content)
    file = directory / f"{name}.deb"
    build = ["dpkg-deb", "--root-owner-group", f"-Z{kind}", "--build", str(tree), str(file)]
    subprocess.run(build, check=True, capture_output=True)
    return file


def archive(where: Path, *files: Path) -> dict[str, Deb822]:
    """Write the archive of packages that were fetched; return its index by their names."""
    where.mkdir(exist_ok=True)
    fetched = {file.stem: Fetched(file, digest(file), file.stat().st_size) for file in files}
    pins: dict[str, Any] = {
        name: {"priority": "optional", "file": f"pool/{name}.deb"} for name in fetched
    }
    local_archive.write(where, {**PINS, "packages": pins}, fetched)
    index = where / "dists/bookworm/main/binary-amd64/Packages"
    release = Deb822((where / "dists/bookworm/Release").read_text())
    size = str(index.stat().st_size)
    assert release["SHA256"].split() == [digest(index), size, "main/binary-amd64/Packages"]
    with index.open() as text:
        return {each["Package"]: each for each in Packages.iter_paragraphs(text, use_apt_pkg=False)}


def content_of(file: Path) -> bytes:
    return subprocess.check_output(["dpkg-deb", "--fsys-tarfile", file])


@needs_dpkg
@pytest.mark.parametrize("kind", ["xz", "gzip", "none", pytest.param("zstd", marks=needs_zstd)])
def test_a_package_holds_what_it_held(kind: str, tmp_path: Path) -> None:
    file = package(tmp_path, "tool", kind)
    stanza = archive(tmp_path / "archive", file)["tool"]
    copy = tmp_path / "archive" / stanza["Filename"]
    assert (stanza["SHA256"], stanza["Size"]) == (digest(copy), str(copy.stat().st_size))
    assert stanza["Description"] == "of a test\n more"
    assert content_of(copy) == content_of(file)
    for query in ("--field", "--ctrl-tarfile"):
        words = ["dpkg-deb", query]
        assert subprocess.check_output([*words, copy]) == subprocess.check_output([*words, file])
    with DebFile(copy) as members:
        data = {"xz": "data.tar", "none": "data.tar"}.get(kind)
        assert data is None or members.getnames()[-1] == data


@needs_dpkg
def test_each_package_is_there_in_the_order_of_the_pins(tmp_path: Path) -> None:
    names = [f"tool-{number}" for number in (3, 1, 2, 9, 5)]
    index = archive(tmp_path / "archive", *(package(tmp_path, name, "xz") for name in names))
    assert [*index] == names


def test_dpkg_is_told_of_the_packages_as_they_were_fetched() -> None:
    digests = [digit * 64 for digit in "abc"]
    rows = [("one", 1, digests[0]), ("two", 22, digests[1])]
    text = "Package: {}\nVersion: 1\nDescription: text\n more\nSize: {}\nSHA256: {}\nTag: x\n\n"
    packages = {name: {"size": size, "sha256": sha256} for name, size, sha256 in rows}
    index = "".join(text.format(name, 99, digests[2]) for name in ("one", "other", "two"))
    other = text.format("other", 99, digests[2])
    expected = text.format(*rows[0]) + other + text.format(*rows[1])
    assert local_archive.as_fetched(index, packages) == expected


def members(*parts: tuple[str, bytes]) -> bytes:
    """A package of such members. ar(5)."""
    text = b"!<arch>\n"
    for name, data in parts:
        text += f"{name:<16}{1:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        text += data + b"\n" * (len(data) % 2)
    return text


def packed(name: str, content: bytes) -> bytes:
    """A tar archive of one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


HEAD = (
    ("debian-binary", b"2.0\n"),
    ("control.tar", packed("control", CONTROL.format("a").encode())),
)


@given(data=st.binary(max_size=3000), more=st.binary(max_size=9), level=st.sampled_from([0, 6]))
def test_any_data_comes_through(
    data: bytes, more: bytes, level: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    where = tmp_path_factory.mktemp("any")
    file = where / "a.deb"
    parts = (*HEAD, ("_more", more), ("data.tar.xz", lzma.compress(data, preset=level)))
    file.write_bytes(members(*parts))
    archive(where / "archive", file)
    copy = where / "archive/a.deb"
    assert copy.read_bytes() == members(*HEAD, ("_more", more), ("data.tar", data))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (members(*HEAD, ("data.tar.xz", lzma.compress(bytes(999))[:-9])), "ended before"),
        (members(*HEAD, ("data.tar.xz", b"no xz")), "not supported"),
        (members(*HEAD), "missing required part"),
        (b"no package", "global header"),
    ],
)
def test_what_is_no_package_is_told_by_its_name(content: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / "a.deb"
    file.write_bytes(content)
    with pytest.raises(HostError, match=r"pool/a\.deb: cannot be read") as caught:
        archive(tmp_path / "archive", file)
    assert why in caught.value.why


def test_what_was_fetched_is_what_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "a.deb"
    file.write_bytes(members(*HEAD, ("data.tar.xz", lzma.compress(b"data"))))
    fetched = Fetched(file, hashlib.sha256(b"another").hexdigest(), 1)
    pins = {**PINS, "packages": {"a": {"priority": "optional", "file": "pool/a.deb"}}}
    with pytest.raises(SourceError, match="gone or was changed"):
        local_archive.write(tmp_path, pins, {"a": fetched})
    file.unlink()
    with pytest.raises(SourceError, match="gone or was changed"):
        local_archive.write(tmp_path / "other", pins, {"a": fetched})
