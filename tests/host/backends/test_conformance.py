"""The built-in backends pass what any backend must: ``singbuild.testing``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from singbuild.testing import BackendConformance, Engine
from tests.bench import docker_images, pacman_repository, rpm_repository
from tests.bench.host import shared_directory

pytestmark = pytest.mark.root


class TestBusybox(BackendConformance):
    name = "busybox"
    bad = ("MirrorURL: /no/such/file", "MirrorURL: gopher://127.0.0.1/", "SHA256: 12")


class TestScratch(BackendConformance):
    name = "scratch"

    def recipe(self, engine: Engine, header: str, sections: str = "") -> Path:
        """Write a recipe; an empty tree has no shell for %post."""
        return super().recipe(engine, header, sections.replace("%post", "%setup"))


@pytest.mark.network
class TestDebootstrap(BackendConformance):
    name = "debootstrap"
    bad = (
        "OSVersion: bookwrm",
        "MirrorURL: http://127.0.0.1:9/debian",
        "Variant: huge",
        "Include: -y",
        "Keyring: /no/such/file",
    )

    @pytest.fixture
    def header(self, mini_debian: str) -> str:
        return mini_debian


class TestOci(BackendConformance):
    name = "oci"
    bad = ("From: /no/such/layout", "From: relative/none:tag")

    @pytest.fixture
    def header(self, singbuild_engine: Engine) -> str:
        busybox = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
        entries = [
            docker_images.directory("bin"),
            docker_images.file("bin/busybox", busybox, mode=0o755),
        ]
        entries += [docker_images.symlink(f"bin/{n}", "busybox") for n in ("sh", "sleep", "chroot")]
        result = docker_images.image(docker_images.archive(*entries))
        where = singbuild_engine.place / "layout"
        docker_images.write_layout(where, {"one": result})
        return f"From: {where}:one"


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with rpm_repository.served(rpm_repository.make(tmp_path_factory.mktemp("rpms"))) as url:
        yield url


@pytest.mark.skipif(not rpm_repository.have_programs(), reason="needs dnf and rpm's tools")
class TestYum(BackendConformance):
    name = "yum"
    bad = (
        "MirrorURL: http://127.0.0.1:9/",
        "MirrorURL: relative",
        "GPGCheck: perhaps",
        "GPGKey: /no/such/key",
        "Include: no-such-package",
        "SetOpt: plugins=1",
        "Repositories: nameless",
    )

    @pytest.fixture
    def header(self, mirror: str) -> str:
        key = f"{mirror}/RPM-GPG-KEY-site"
        return f"OSVersion: 7\nMirrorURL: {mirror}\nGPGKey: {key}\nInclude: hello rpm"


@pytest.mark.skipif(
    not (rpm_repository.have_programs() and shutil.which("zypper")), reason="needs zypper"
)
class TestZypper(BackendConformance):
    name = "zypper"
    bad = (
        "MirrorURL: http://127.0.0.1:9/",
        "GPGCheck: perhaps",
        "GPGKey: /no/such/key",
        "Include: no-such-package",
        "Include: wanting",
    )

    @pytest.fixture
    def header(self, mirror: str) -> str:
        key = f"{mirror}/RPM-GPG-KEY-site"
        return f"OSVersion: 7\nMirrorURL: {mirror}\nGPGKey: {key}\nInclude: hello rpm"


@pytest.fixture(scope="module")
def packages() -> Iterator[tuple[Path, str]]:
    with shared_directory() as place:
        where = pacman_repository.make(place)
        with rpm_repository.served(where) as url:
            yield where, url


@pytest.mark.skipif(not pacman_repository.have_programs(), reason="needs pacman")
class TestArch(BackendConformance):
    name = "arch"
    bad = (
        "MirrorURL: http://127.0.0.1:9/",
        "MirrorURL: relative",
        "Repositories: none",
        "Include: no-such-package",
        "Include: wanting",
        "Keyring: /no/such/file",
    )

    @pytest.fixture
    def header(self, packages: tuple[Path, str]) -> str:
        where, url = packages
        keyring = where / "site.gpg"
        return f"MirrorURL: {url}\nRepositories: core\nKeyring: {keyring}\nInclude: hello"
