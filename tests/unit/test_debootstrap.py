"""Resolving a debootstrap build, without privilege.

Signatures and indices are Debian's own: they come from the machine's mirror once,
and a loopback server then hands them out, whole, damaged, or in the wrong place.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import singbuild_debootstrap
from singbuild_debootstrap import choice, singbuild_needs, singbuild_resolve
from singbuild_debootstrap.choice import choose

from singbuild import HostError, RecipeKeyError, SingbuildError, SourceError, command
from singbuild.download import fetch
from tests.bench.backend_alone import Recorder, source

KEYS = Path("/usr/share/keyrings")
INDEX = "main/binary-amd64/Packages.xz"
needs_debootstrap = pytest.mark.skipif(not choice.SCRIPTS.is_dir(), reason="needs debootstrap")


def configured_mirror() -> str:
    """The archive of bookworm as the host's apt knows it."""
    argv = ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"]
    lines = [line.split() for line in command.output(argv).splitlines()]
    return next(uri.rstrip("/") for release, uri in lines if release == "bookworm")


@pytest.fixture(scope="session")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an archive of bookworm has beside its packages."""
    base = tmp_path_factory.mktemp("genuine")
    dists = base / "debian/dists/bookworm"
    for name in ("InRelease", "Release", "Release.gpg", INDEX):
        release = fetch(f"{configured_mirror()}/dists/bookworm/{name}", base, report=Recorder())
        (dists / name).parent.mkdir(parents=True, exist_ok=True)
        release.path.rename(dists / name)
    return base / "debian"


@pytest.fixture
def dists(genuine: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil; InRelease alone, as archives have it today."""
    shutil.copytree(genuine, tmp_path / "debian", copy_function=shutil.copy)
    for name in ("Release", "Release.gpg"):
        (tmp_path / "debian/dists/bookworm" / name).unlink()
    return tmp_path / "debian/dists"


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """Serve ``tmp_path/debian``; yields its URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/debian"
        server.shutdown()
        thread.join()


def resolve(cache: Path, mirror: str, suite: str = "bookworm", **more: str) -> dict[str, Any]:
    request = source(cache, arch="x86_64", OSVersion=suite, MirrorURL=mirror, **more)
    return dict(singbuild_resolve(request))


@pytest.mark.network
def test_pins_name_the_archives_state_and_every_package(
    dists: Path, mirror: str, tmp_path: Path
) -> None:
    pins = resolve(tmp_path, mirror + "/", Include="netbase, hello")
    assert pins["mirror"] == mirror
    assert (pins["suite"], pins["codename"], pins["architecture"]) == (
        "bookworm",
        "bookworm",
        "amd64",
    )
    assert (pins["components"], pins["variant"]) == (["main"], "minbase")
    assert pins["include"] == ["netbase", "hello"]
    assert re.fullmatch("[0-9a-f]{64}", pins["release"]["sha256"])
    assert (
        time.gmtime(pins["epoch"])[:3]
        == time.strptime(pins["release"]["date"][5:16], "%d %b %Y")[:3]
    )
    assert pins["release"]["date"] in (dists / "bookworm/InRelease").read_text()
    assert {"apt", "bash", "dpkg", "libc6", "netbase", "hello"} <= pins["packages"].keys()
    for package in pins["packages"].values():
        assert re.fullmatch("[0-9a-f]{64}", package["sha256"])
        assert package["size"] > 0
        assert package["version"]
        assert package["file"].startswith("pool/main/")
    assert resolve(tmp_path, mirror, Include="netbase hello") == pins


@pytest.mark.network
@pytest.mark.parametrize(("variant", "spelling"), [("minbase", "minbase"), ("standard", "-")])
def test_the_packages_are_those_that_debootstrap_itself_would_install(
    dists: Path, mirror: str, tmp_path: Path, variant: str, spelling: str
) -> None:
    argv = ["debootstrap", "--print-debs", "--force-check-gpg", "--arch=amd64", "--include=git"]
    argv += [f"--variant={spelling}", "bookworm", str(tmp_path / "target"), mirror]
    printed = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
    pins = resolve(tmp_path, mirror, Include="git", Variant=variant)
    assert sorted(pins["packages"]) == sorted(printed.split())


@pytest.mark.network
def test_an_archive_may_be_a_directory_of_the_host(dists: Path, tmp_path: Path) -> None:
    assert resolve(tmp_path / "cache", dists.parent.as_uri())["codename"] == "bookworm"


@pytest.mark.network
def test_an_older_archive_has_its_signature_in_a_file_of_its_own(
    genuine: Path, dists: Path, mirror: str, tmp_path: Path
) -> None:
    inline = resolve(tmp_path, mirror)
    (dists / "bookworm/InRelease").unlink()
    for name in ("Release", "Release.gpg"):
        shutil.copy(genuine / "dists/bookworm" / name, dists / "bookworm")
    detached = resolve(tmp_path, mirror)
    assert detached["packages"] == inline["packages"]
    release = dists / "bookworm/Release"
    release.write_bytes(release.read_bytes().replace(b"12", b"13"))
    later = release.stat().st_mtime + 2
    os.utime(release, (later, later))  # else a server says that it is still the same
    with pytest.raises(SourceError, match="signature cannot be verified"):
        resolve(tmp_path, mirror)


@pytest.mark.network
def test_an_index_is_fetched_by_its_hash_where_that_is_offered(
    dists: Path, mirror: str, tmp_path: Path
) -> None:
    index = dists / "bookworm" / INDEX
    digest = subprocess.check_output(["sha256sum", index], text=True).split()[0]
    (index.parent / "by-hash/SHA256").mkdir(parents=True)
    index.rename(index.parent / "by-hash/SHA256" / digest)
    assert resolve(tmp_path, mirror)["packages"]


@pytest.mark.network
def test_a_changed_release_file_is_refused(dists: Path, mirror: str, tmp_path: Path) -> None:
    release = dists / "bookworm/InRelease"
    release.write_text(release.read_text().replace("Label: Debian", "Label: Debjan"))
    with pytest.raises(SourceError, match="signature cannot be verified") as caught:
        resolve(tmp_path, mirror)
    assert "does not fit" in caught.value.why
    assert caught.value.remedy


@pytest.mark.network
@pytest.mark.parametrize("where", ["before", "behind"])
def test_text_beside_the_signed_text_is_refused(
    dists: Path, mirror: str, tmp_path: Path, where: str
) -> None:
    release = dists / "bookworm/InRelease"
    genuine, more = release.read_text(), "Suite: bookworm\n\n"
    release.write_text(more + genuine if where == "before" else genuine + more)
    with pytest.raises(SourceError, match=r"InRelease|signature"):
        resolve(tmp_path, mirror)


@pytest.mark.network
@pytest.mark.parametrize("content", ["", "not signed\n", "<html>Log in first</html>\n"])
def test_an_unsigned_release_file_is_refused(
    dists: Path, mirror: str, tmp_path: Path, content: str
) -> None:
    (dists / "bookworm/InRelease").write_text(content)
    with pytest.raises(SourceError, match="signature cannot be verified"):
        resolve(tmp_path, mirror)


@pytest.mark.network
def test_an_unknown_key_is_named(dists: Path, mirror: str, tmp_path: Path) -> None:
    others = KEYS / "debian-archive-removed-keys.gpg"
    with pytest.raises(SourceError, match="signature cannot be verified") as caught:
        resolve(tmp_path, mirror, Keyring=str(others))
    assert re.search(rf"keys that are not in {others}: [0-9A-F]{{16,}}", caught.value.why)


@pytest.mark.network
def test_a_mirror_without_the_suite_says_so(dists: Path, mirror: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"{mirror}: has no suite trixie") as caught:
        resolve(tmp_path, mirror, "trixie")
    assert "404" in caught.value.why


@pytest.mark.network
def test_another_suite_in_its_place_is_refused(dists: Path, mirror: str, tmp_path: Path) -> None:
    (dists / "bookworm").rename(dists / "trixie")
    with pytest.raises(SourceError, match="bookworm, not trixie"):
        resolve(tmp_path, mirror, "trixie")


@pytest.mark.network
def test_a_damaged_index_is_refused(dists: Path, mirror: str, tmp_path: Path) -> None:
    with (dists / "bookworm" / INDEX).open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    with pytest.raises(SourceError, match="wrong SHA-256"):
        resolve(tmp_path, mirror)


@pytest.mark.network
def test_a_machine_that_the_archive_lacks_is_named(
    dists: Path, mirror: str, tmp_path: Path
) -> None:
    request = source(tmp_path, arch="loongarch64", OSVersion="bookworm", MirrorURL=mirror)
    with pytest.raises(SourceError, match="not for this machine") as caught:
        singbuild_resolve(request)
    assert "not loong64" in caught.value.why


@pytest.mark.network
@pytest.mark.parametrize(
    ("keyword", "value", "says"),
    [
        ("Include", "netbasse", "Did you mean netbase"),
        ("Include", "no-such-thing-at-all", "another component"),
        ("Components", "main contribb", "contrib"),
    ],
)
def test_what_the_archive_lacks_comes_with_a_proposal(
    dists: Path, mirror: str, tmp_path: Path, keyword: str, value: str, says: str
) -> None:
    with pytest.raises(RecipeKeyError, match=value.split()[-1]) as caught:
        resolve(tmp_path, mirror, **{keyword: value})
    assert caught.value.keyword == keyword
    assert says in caught.value.remedy


@needs_debootstrap
def test_an_unreachable_mirror_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:9/debian/dists/bookworm") as caught:
        resolve(tmp_path, "http://127.0.0.1:9/debian")
    assert "refuses connections" in caught.value.why


@needs_debootstrap
@pytest.mark.parametrize(
    ("keyword", "value", "says"),
    [
        ("OSVersion", "bookwurm", "Did you mean bookworm"),
        ("OSVersion", "../../etc/passwd", "newer debootstrap"),
        ("OSVersion", "debian-common", ""),
        ("OSVersion", "no such thing", ""),
        ("Variant", "tiny", "minbase"),
        ("Variant", "fakechroot", "minbase"),
        ("Components", "main) touch /tmp/x ;; (", ""),
        ("Include", "netbase $(reboot)", ""),
        ("Include", "--print-debs", ""),
        ("Keyring", "/no/such/file", ""),
        ("Keyring", str(Path("/etc/apt/trusted.gpg.d/debian-archive-bookworm-stable.asc")), "gpg"),
        ("MirrorURL", "ftp://127.0.0.1/debian", "http://"),
        ("MirrorURL", "http://127.0.0.1/$(reboot)", "http://"),
        ("MirrorURL", "http://one http://two", "http://"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_before_anything_is_fetched(
    tmp_path: Path, keyword: str, value: str, says: str
) -> None:
    words = {"OSVersion": "bookworm", "MirrorURL": "http://127.0.0.1:9/debian", keyword: value}
    with pytest.raises(RecipeKeyError, match=f"^{keyword}: ") as caught:
        choose(source(tmp_path, **words))
    assert caught.value.keyword == keyword
    assert says in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_missing_keys_name_the_package_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/nova").write_text(
        "variants minbase\nkeyring /no/nova-archive-keyring.gpg\n"
    )
    monkeypatch.setattr(choice, "SCRIPTS", tmp_path / "scripts")
    with pytest.raises(HostError, match=r"/no/nova-archive-keyring\.gpg") as caught:
        choose(source(tmp_path, OSVersion="nova"))
    assert "nova-archive-keyring" in caught.value.remedy


@pytest.mark.network
@pytest.mark.parametrize("suite", ["bookworm", "trixie", "stable"])
def test_without_a_mirror_the_hosts_apt_is_asked(tmp_path: Path, suite: str) -> None:
    assert choose(source(tmp_path, OSVersion=suite)).mirror == configured_mirror()


@needs_debootstrap
def test_without_apt_debootstraps_own_mirror_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = re.search('^DEF_MIRROR="(.*)"', Path("/usr/sbin/debootstrap").read_text(), re.M)
    assert default
    (tmp_path / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose(source(tmp_path, OSVersion="bookworm")).mirror == default[1]


@needs_debootstrap
def test_another_distributions_suite_is_not_taken_from_the_hosts_apt(tmp_path: Path) -> None:
    keyring = str(KEYS / "debian-archive-keyring.gpg")
    request = source(tmp_path, arch="x86_64", OSVersion="jammy", Keyring=keyring)
    assert "ubuntu" in choose(request).mirror


def test_all_keywords_are_described_and_only_the_suite_is_required() -> None:
    needs = singbuild_needs()
    assert [word.name for word in needs.keywords if word.required] == ["OSVersion"]
    assert all(word.help for word in needs.keywords)
    assert "debootstrap" in {program.name for program in needs.programs}
    assert issubclass(RecipeKeyError, SingbuildError)


def test_dpkg_reads_the_configuration_of_nobodys_home() -> None:
    """Root's own would change the image; others may not read it, and dpkg would complain."""
    become: dict[str, Any] = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}
    env = singbuild_debootstrap.ENVIRONMENT
    argv = ["dpkg", "--print-architecture"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, **become)
    assert (done.returncode, done.stderr) == (0, "")
