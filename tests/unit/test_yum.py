"""Keywords of yum, and the recipes that use them."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from singbuild_yum import backend
from singbuild_yum.choice import BASE, choose
from singbuild_yum.database import write_database
from singbuild_yum.dnf import checked_version, program
from singbuild_yum.layout import Layout
from singbuild_yum.repository import Repository, inside, packages

from singbuild import HostError, ImageError, RecipeKeyError, Rootfs, Source, SourceError
from singbuild.console.display import Console
from singbuild.plan import plan
from singbuild.recipe import grammar
from tests.bench.backend_alone import source

RECIPES = Path(__file__).parent.parent.parent / "recipes"
KEYWORDS = {
    "OSVersion": "7",
    "MirrorURL": "http://m.example/%{OSVERSION}/%{BASEARCH}/",
    "GPGKey": "k",
}


def chosen(**words: str) -> Source:
    return source(Path(), arch="x86_64", **(KEYWORDS | words))


@pytest.mark.parametrize(
    ("name", "urls"),
    [
        ("centos7", ["http://m.example/7/os/x86_64", "http://m.example/7/updates/x86_64"]),
        (
            "rocky",
            ["http://m.example/9/BaseOS/x86_64/os", "http://m.example/9/AppStream/x86_64/os"],
        ),
    ],
)
def test_the_recipes_are_sound_as_far_as_no_mirror_is_asked(name: str, urls: list[str]) -> None:
    loaded = grammar.load(str(RECIPES / f"{name}.def"), build_args=("mirror=http://m.example",))
    result = plan.make(loaded, Console(io.StringIO()))
    request = source(Path(), arch="x86_64", **result.source.keywords)
    choice = choose(request)
    assert list(choice.repositories.values()) == urls
    assert choice.gpgcheck
    assert choice.keys[0].url.startswith("/etc/pki/rpm-gpg/RPM-GPG-KEY")


@pytest.mark.parametrize("word", ["%{OSVERSION}", "%OSVERSION", "%{osversion}", "$releasever"])
def test_the_release_is_filled_in_as_in_singularity(word: str) -> None:
    url = f"http://m.example/{word}/$basearch"
    assert choose(chosen(MirrorURL=url)).repositories == {"base": "http://m.example/7/x86_64"}


def test_the_key_by_the_name_that_apptainer_has_for_it() -> None:
    words = {**KEYWORDS, "GPG": "https://m.example/key"}
    del words["GPGKey"]
    assert choose(source(Path(), arch="x86_64", **words)).keys[0].url == "https://m.example/key"


def test_releasever_is_another_word_for_dnf_alone() -> None:
    choice = choose(chosen(Releasever="7.9", UpdateURL="http://m.example/$releasever"))
    assert choice.releasever == "7.9"
    assert choice.repositories["base"] == "http://m.example/7/x86_64"
    assert choice.repositories["updates"] == "http://m.example/7.9"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("MirrorURL", "ftp://m.example"),
        ("MirrorURL", "http://m.example/$nothing"),
        ("MirrorURL", "http://m.example/%{NOTHING}"),
        ("Include", "http://m.example/evil.rpm"),
        ("Include", "/root/evil.rpm"),
        ("Include", "-x"),
        ("Excludes", "a;b"),
        ("SetOpt", "plugins"),
        ("SetOpt", "plugins=1"),
        ("SetOpt", "base.gpgkey=file:///k"),
        ("Repositories", "main=http://m.example"),
        ("Repositories", "a=http://m.example a=http://n.example"),
        ("OSVersion", "7 --nogpgcheck"),
        ("GPGCheck", "maybe"),
    ],
)
def test_what_is_no_value_is_refused_under_its_keyword(keyword: str, value: str) -> None:
    with pytest.raises(RecipeKeyError) as caught:
        choose(chosen(**{keyword: value}))
    assert caught.value.keyword == keyword


def test_packages_are_checked_unless_no_is_said() -> None:
    assert choose(chosen()).gpgcheck
    checked = [choose(chosen(GPGCheck=value)).gpgcheck for value in ("", "Yes", "no", "0")]
    assert checked == [True, True, False, False]


def test_names_files_groups_and_patterns_may_be_included() -> None:
    words = "vim-enhanced,@core /usr/bin/gcc @^minimal python3*"
    assert choose(chosen(Include=words)).include == tuple(words.replace(",", " ").split())
    assert "/bin/sh" in BASE


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../b", "", "a\nb"])
def test_a_path_out_of_the_repository_is_refused(path: str) -> None:
    with pytest.raises(SourceError, match="outside itself"):
        inside(path)


PACKAGE = """<metadata xmlns="http://linux.duke.edu/metadata/common"><package type="rpm">
<name>bash</name><arch>x86_64</arch><version epoch="{epoch}" ver="5" rel="1"/>
<checksum type="{kind}" pkgid="YES">{sum}</checksum><size package="7"/>
<location href="b/bash.rpm"/></package></metadata>"""


def repository(where: Path, text: str, packed: bool = True) -> Repository:
    where.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return Repository("base", "http://m.example", "", 0, {"p.xml.gz": where}, "p.xml.gz")


@pytest.mark.parametrize(("epoch", "version"), [("0", "5-1"), ("2", "2:5-1")])
def test_a_package_of_the_index(epoch: str, version: str, tmp_path: Path) -> None:
    text = PACKAGE.format(epoch=epoch, kind="sha256", sum="a" * 64)
    (package,) = packages(repository(tmp_path / "p", text))
    assert package["version"] == version
    assert (package["file"], package["size"], package["sha256"]) == ("b/bash.rpm", 7, "a" * 64)


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        (PACKAGE.format(epoch="0", kind="md5", sum="a" * 32), True),
        (PACKAGE.format(epoch="0", kind="sha256", sum="../x"), True),
        (PACKAGE[:100], True),
        ("<metadata/>", False),
    ],
)
def test_an_index_that_cannot_be_trusted_is_refused(
    text: str, packed: bool, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="cannot be understood"):
        list(packages(repository(tmp_path / "p", text, packed)))


def test_an_index_that_unpacks_to_more_than_any_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PACKAGE.format(epoch="0", kind="sha256", sum="a" * 64)
    result = repository(tmp_path / "p", text.replace("</metadata>", " " * 100_000 + "</metadata>"))
    assert len(list(packages(result))) == 1
    monkeypatch.setattr("singbuild_yum.repository.INDEX_LIMIT", 50_000)
    with pytest.raises(SourceError, match="over 50,000 bytes, unpacked"):
        list(packages(result))


def put_program(directory: Path, name: str, version: str) -> None:
    """A program of the host that tells its version, and can nothing else."""
    place = directory / name
    place.write_text(f"#!/bin/sh\nprintf '%s\\n' '{version}'\n")
    place.chmod(0o755)


@pytest.mark.parametrize(
    ("name", "version"), [("dnf", "dnf5 version 5.2.6.2"), ("yum", "3.4.3"), ("dnf", "")]
)
def test_another_dnf_is_refused_before_anything_is_fetched(
    name: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_program(tmp_path, name, version)
    monkeypatch.setenv("PATH", str(tmp_path))
    request = replace(chosen(MirrorURL="http://127.0.0.1:9/"), cache=tmp_path / "cache")
    with pytest.raises(HostError) as caught:
        backend.singbuild_resolve(request)
    assert f"{name} is not dnf 4" in caught.value.what
    assert f"says: {version or 'nothing'}." in caught.value.why
    assert "apt-get install dnf" in caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_dnf_4_is_found_beside_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_program(tmp_path, "dnf", "dnf5 version 5.2.6.2")
    put_program(tmp_path, "yum", "dnf5 version 5.2.6.2")
    put_program(tmp_path, "dnf-3", "4.21.1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (program().name, checked_version()) == ("dnf-3", "4.21.1")


DIGEST = "0123456789abcdef" * 4


def test_a_key_by_plain_http_needs_a_digest() -> None:
    url = "http://m.example/KEY"
    with pytest.raises(RecipeKeyError, match="comes over plain http") as caught:
        choose(chosen(GPGKey=url))
    assert "#sha256=" in caught.value.remedy
    (key,) = choose(chosen(GPGKey=f"{url}#sha256={DIGEST.upper()}")).keys
    assert (key.url, key.sha256) == (url, DIGEST)
    locked = replace(chosen(GPGKey=url), locked={"keys": {url: DIGEST}})
    assert choose(locked).keys[0].sha256 == DIGEST
    for strange in ({}, {"keys": 5}, {"keys": {url: 5}}, {"keys": {"other": DIGEST}}):
        with pytest.raises(RecipeKeyError, match="comes over plain http"):
            choose(replace(chosen(GPGKey=url), locked=strange))


@pytest.mark.parametrize(
    "url", ["https://m.example/K", "http://127.0.0.1:9/K", "http://[::1]/K", "/K", "file:///K"]
)
def test_a_key_that_nobody_can_replace_on_the_way_needs_none(url: str) -> None:
    assert choose(chosen(GPGKey=url)).keys[0].url == url


def test_a_digest_of_a_key_is_64_digits() -> None:
    with pytest.raises(RecipeKeyError, match="hexadecimal"):
        choose(chosen(GPGKey="https://m.example/KEY#sha256=abc"))


@pytest.mark.parametrize("line", ["", "warning: no macros", "%{_dbpath}"])
def test_an_rpm_that_names_no_directory_is_told(tmp_path: Path, line: str) -> None:
    class Silent(Rootfs):
        """A tree whose rpm prints a line, or nothing."""

        def run(self, _argv: object, *, on_line: Callable[[str], None], **_more: object) -> None:  # type: ignore[override]
            if line:
                on_line(line)

    rootfs = Silent(tmp_path, Console(io.StringIO()))
    with pytest.raises(ImageError, match="names no directory of its database"):
        write_database(Layout(tmp_path), {"packages": {}}, rootfs)
