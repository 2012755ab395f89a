"""A small SUSE and a small Arch Linux, from signed repositories on loopback to images that run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.bench import pacman_repository, rpm_repository
from tests.bench.builds import SINGBUILD, Build
from tests.bench.host import shared_directory

pytestmark = pytest.mark.root
Recipe = Callable[[str], Path]
with_zypper = pytest.mark.skipif(
    not (rpm_repository.have_programs() and shutil.which("zypper")), reason="needs zypper"
)
with_pacman = pytest.mark.skipif(
    not pacman_repository.have_programs(), reason="needs pacman, gpgv and busybox"
)


def run_in(image: Path, *argv: str) -> str:
    words = [*SINGBUILD[:1], "-m", "singrun", "exec", str(image), *argv]
    return subprocess.check_output(words, text=True)


@pytest.fixture(scope="module")
def suse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with rpm_repository.served(rpm_repository.make(tmp_path_factory.mktemp("rpms"))) as url:
        yield url


@with_zypper
def test_zypper_installs_what_was_pinned_and_signed(
    suse: str, recipe: Recipe, singbuild: Build, tmp_path: Path
) -> None:
    text = (
        f"BootStrap: zypper\nOSVersion: 7\nMirrorURL: {suse}\nInclude: hello rpm\n"
        f"GPGKey: {suse}/RPM-GPG-KEY-site\n%post\n    /usr/bin/rpm -V bash hello\n"
        "%test\n    hello\n"
    )
    done = singbuild(recipe(text), "a.img")
    assert done.returncode == 0, done.stderr
    assert "is trusted from this first use on" in done.stdout + done.stderr
    image = tmp_path / "a.img"
    assert run_in(image, "cat", "/etc/SuSE-brand") == "mini\n"
    assert run_in(image, "cat", "/etc/hello.made") == "Mini Linux release 7\ncat\n"
    lock = yaml.safe_load(run_in(image, "cat", "/.singularity.d/lock.yaml"))
    installed = run_in(image, "/usr/bin/rpm", "-qa").split()
    assert sorted(n for n in installed if "pubkey" not in n) == sorted(lock["pins"]["packages"])
    search = "find / -xdev -name '*zypp*' -not -path '/proc/*'"
    assert "zypp" not in run_in(image, "busybox", "sh", "-c", f"busybox {search}")


@with_zypper
def test_zypper_refuses_what_a_stranger_signed(
    suse: str, recipe: Recipe, singbuild: Build, nothing_left: Callable[[], None]
) -> None:
    text = f"BootStrap: zypper\nOSVersion: 7\nMirrorURL: {suse}\n"
    done = singbuild(recipe(f"{text}GPGKey: {suse}/RPM-GPG-KEY-stranger\n"), "a.img")
    assert done.returncode == 6
    assert "not signed by a key of GPGKey" in done.stderr
    nothing_left()
    # A lock pins the key: another one in its place is told before anything is built.
    assert singbuild("lock", recipe(f"{text}GPGKey: {suse}/RPM-GPG-KEY-site\n")).returncode == 0


@pytest.fixture
def arch() -> Iterator[tuple[Path, str]]:
    with shared_directory() as place:
        where = pacman_repository.make(place)
        with rpm_repository.served(where) as url:
            yield where, url


HEAD = "Bootstrap: arch\nMirrorURL: {url}\nRepositories: core\nKeyring: {keyring}\n"


@with_pacman
def test_pacman_installs_what_was_pinned_and_signed(
    arch: tuple[Path, str], recipe: Recipe, singbuild: Build, tmp_path: Path
) -> None:
    where, url = arch
    head = HEAD.format(url=url, keyring=where / "site.gpg")
    done = singbuild(recipe(f"{head}Include: hello\n%test\n    hello\n"), "a.img")
    assert done.returncode == 0, done.stderr
    image = tmp_path / "a.img"
    # The scriptlet had a system around it: /dev/null is no file, /proc was there.
    assert run_in(image, "cat", "/etc/hello.made") == "ID=mini\nNAME=Mini\ncat\n"
    status = ("busybox", "stat", "-c", "%a %u %g %n", "/etc/hello.conf", "/usr/bin/elevated")
    assert run_in(image, *status).splitlines() == [
        "640 4 7 /etc/hello.conf",
        "4755 0 0 /usr/bin/elevated",
    ]
    lock = yaml.safe_load(run_in(image, "cat", "/.singularity.d/lock.yaml"))
    assert sorted(lock["pins"]["packages"]) == ["base", "busybox", "filesystem", "hello"]
    about = run_in(image, "cat", "/var/lib/pacman/local/hello-1-1/desc")
    assert f"%INSTALLDATE%\n{pacman_repository.BUILT}\n" in about
    assert run_in(image, "ls", "/var/lib/pacman") == "local\n"


@with_pacman
@pytest.mark.parametrize("wrong", ["stranger", "changed", "unsigned", "revoked"])
def test_pacman_gets_nothing_that_the_keyring_has_not_signed(
    wrong: str,
    arch: tuple[Path, str],
    recipe: Recipe,
    singbuild: Build,
    nothing_left: Callable[[], None],
) -> None:
    where, url = arch
    keyring = where / ("stranger.gpg" if wrong == "stranger" else "site.gpg")
    packages = next(where.glob("core/os/*"))
    signature = packages / "hello-1-1-any.pkg.tar.gz.sig"
    output = {
        "stranger": "4 packages are not signed by a key of",
        "changed": "hello-1-1-any.pkg.tar.gz: the signature does not fit",
        "unsigned": "hello-1-1-any.pkg.tar.gz.sig",
        "revoked": "signed with a key that is revoked",
    }[wrong]
    if wrong == "changed":
        shutil.copy(packages / "base-1-1-any.pkg.tar.gz.sig", signature)
    elif wrong == "unsigned":
        signature.unlink()
    elif wrong == "revoked":
        argv = ["gpg", "--batch", "--with-colons", "--show-keys", str(keyring)]
        listing = subprocess.check_output(argv, text=True)
        prints = [line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr")]
        (where / "site-revoked").write_text(f"{prints[0]}\n")
    head = HEAD.format(url=url, keyring=keyring)
    done = singbuild(recipe(f"{head}Include: hello\n"), "a.img")
    assert done.returncode == 6
    assert output in done.stderr
    nothing_left()
