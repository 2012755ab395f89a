"""Keywords of arch, and what an index of pacman's may say."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from singbuild_arch.choice import choose, of_host
from singbuild_arch.repository import Repository, packages

from singbuild import RecipeKeyError, Source, SourceError
from tests.bench.backend_alone import source

DESC = {
    "FILENAME": "base-1-1-any.pkg.tar.zst",
    "NAME": "base",
    "VERSION": "1-1",
    "CSIZE": "10",
    "SHA256SUM": "0" * 64,
    "BUILDDATE": "1700000000",
}


@pytest.fixture
def keyring(tmp_path: Path) -> str:
    (tmp_path / "keys.gpg").write_bytes(b"")
    return str(tmp_path / "keys.gpg")


def request(keyring: str, **words: str) -> Source:
    keywords = {"Repositories": "core extra", "Keyring": keyring, **words}
    return source(Path(), arch="x86_64", **keywords)


@pytest.mark.parametrize(
    "mirror",
    ["http://m.example/arch", "http://m.example/arch/", "http://m.example/arch/$repo/os/$arch"],
)
def test_a_mirror_is_named_as_pacman_has_it_or_by_its_directory(mirror: str, keyring: str) -> None:
    choice = choose(request(keyring, MirrorURL=mirror))
    assert choice.repositories == {
        "core": "http://m.example/arch/core/os/x86_64",
        "extra": "http://m.example/arch/extra/os/x86_64",
    }


def test_a_recipe_without_a_mirror_takes_the_sites(keyring: str) -> None:
    with pytest.raises(RecipeKeyError, match="names no mirror"):
        choose(request(keyring))
    site = replace(request(keyring), mirrors={"archlinux": "https://m.example"})
    assert choose(site).repositories["core"] == "https://m.example/core/os/x86_64"


def test_the_hosts_mirrors_are_read(tmp_path: Path) -> None:
    assert of_host(tmp_path / "none") == ""
    text = "# Server = http://off.example\n\nServer = https://m.example/$repo/os/$arch\n"
    (tmp_path / "mirrorlist").write_text(text + "Server = https://other.example\n")
    assert of_host(tmp_path / "mirrorlist") == "https://m.example/$repo/os/$arch"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("MirrorURL", "ftp://m.example"),
        ("MirrorURL", "http://m.example/$nothing"),
        ("Include", "--config"),
        ("Include", "../evil"),
        ("Repositories", "core/../x"),
        ("Keyring", "/no/such/file"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(keyword: str, value: str, keyring: str) -> None:
    words = {"MirrorURL": "http://m.example", keyword: value}
    with pytest.raises(RecipeKeyError) as caught:
        choose(request(words.pop("Keyring", keyring), **words))
    assert caught.value.keyword == keyword


def index(place: Path, **fields: str) -> Repository:
    """Write an index of one package."""
    text = "".join(f"%{k}%\n{v}\n\n" for k, v in (DESC | fields).items() if v).encode()
    with tarfile.open(place / "core.db", "w:gz") as archive:
        entry = tarfile.TarInfo("base-1-1/desc")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    return Repository("core", "http://m.example", "", (place / "core.db").read_bytes())


def test_an_index_is_read(tmp_path: Path) -> None:
    (package,) = packages(index(tmp_path))
    assert (package["name"], package["version"], package["size"]) == ("base", "1-1", 10)
    assert package["built"] == 1700000000


@pytest.mark.parametrize(
    "fields",
    [
        {"FILENAME": "../../etc/cron.d/x"},
        {"FILENAME": "a b"},
        {"SHA256SUM": "md5"},
        {"SHA256SUM": ""},
        {"CSIZE": "many"},
        {"NAME": "x" * (1 << 20)},
    ],
)
def test_a_hostile_index_is_refused(fields: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be understood"):
        list(packages(index(tmp_path, **fields)))


def test_a_file_that_is_no_index_is_refused() -> None:
    with pytest.raises(SourceError, match="cannot be understood"):
        list(packages(Repository("core", "http://m.example", "", b"<html>404</html>")))
