"""A small Enterprise Linux, from a signed repository on loopback to an image that runs."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.bench import rpm_repository
from tests.bench.builds import SINGBUILD, Build, killed_in
from tests.bench.host import shared_directory

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not rpm_repository.have_programs(), reason="needs dnf and rpm's tools"),
]
HEADER = """\
BootStrap: {bootstrap}
OSVersion: 7
MirrorURL: {url}/%{{OSVERSION}}/os/%{{BASEARCH}}
GPGKey: {url}/$releasever/os/$basearch/RPM-GPG-KEY-{key}
"""
CAP_NET_RAW = 13  # capabilities(7)
CAPABILITY = """
import os, struct
value = os.getxattr("usr/bin/capable", "security.capability")
print(struct.unpack_from("<II", value)[1])
"""
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as a mirror has it: below RELEASE/os/ARCHITECTURE."""
    base = tmp_path_factory.mktemp("rpms")
    return rpm_repository.make(base)


@pytest.fixture
def mirror(result: Path, tmp_path: Path) -> tuple[Path, str]:
    """A copy of the repository that a test may damage, and where it is served."""
    place = tmp_path / "mirror/7/os/x86_64"
    shutil.copytree(result, place)
    return place, "file://" + str(tmp_path / "mirror")


@pytest.fixture
def url(mirror: tuple[Path, str], tmp_path: Path) -> Iterator[str]:
    with rpm_repository.served(tmp_path / "mirror") as url:
        yield url


@pytest.fixture
def write(recipe: Callable[[str], Path], url: str) -> Write:
    """Write a recipe: further header lines, then sections."""

    def make(more: str = "", *, bootstrap: str = "yum", key: str = "site") -> Path:
        return recipe(HEADER.format(bootstrap=bootstrap, url=url, key=key) + more)

    return make


GOOD = """\
Include: @tools
Include: rpm
%post
    /usr/bin/rpm -qa | grep -v gpg-pubkey > /installed
    /usr/bin/rpm -V bash hello
    cat /dev/null
%test
    hello
"""


def run_in(image: Path, *argv: str) -> str:
    words = [*SINGBUILD[:1], "-m", "singrun", "exec", str(image), *argv]
    return subprocess.check_output(words, text=True)


@pytest.mark.parametrize("bootstrap", ["yum", "dnf"])
def test_an_image_from_a_signed_repository(
    bootstrap: str, write: Write, singbuild: Build, tmp_path: Path
) -> None:
    done = singbuild(write(GOOD, bootstrap=bootstrap), "a.img")
    assert done.returncode == 0, done.stderr
    image = tmp_path / "a.img"
    assert run_in(image, "cat", "/etc/redhat-release") == "Mini Linux release 7\n"
    assert run_in(image, "hello") == "hello\n"
    installed = run_in(image, "cat", "/installed").split()
    lock = yaml.safe_load(run_in(image, "cat", "/.singularity.d/lock.yaml"))
    assert sorted(installed) == sorted(lock["pins"]["packages"])
    assert lock["packages"]["rpm"]["hello"] == "7-1"
    assert "GPGCheck" not in run_in(image, "cat", "/.singularity.d/labels.json")
    # The scriptlet had a system around it: /dev/null is no file, /proc was there.
    assert run_in(image, "cat", "/etc/hello.made") == "Mini Linux release 7\ncat\n"


def test_owners_modes_and_capabilities_are_the_packages(
    write: Write, singbuild: Build, tmp_path: Path
) -> None:
    assert singbuild(write(GOOD), "a.img").returncode == 0
    script = f"""
        mount -o loop,ro {shlex.quote(str(tmp_path / "a.img"))} /mnt
        cd /mnt
        stat -c '%a %u %g %n' etc/hello.conf usr/bin/elevated root
        {SINGBUILD[0]} -c {shlex.quote(CAPABILITY)}
        find . -name '*singbuild*' -o -path './var/log/*' -o -path './root/?*' \\
            -o -path ./var/lib/rpm
    """
    listing = subprocess.check_output(["unshare", "--mount", "sh", "-ec", script], text=True)
    assert listing.splitlines() == [
        "640 4 7 etc/hello.conf",
        "4755 0 0 usr/bin/elevated",
        "550 0 0 root",
        str(1 << CAP_NET_RAW),
        # rpm's database is where the image's rpm wants it; of the host's dnf nothing is left.
    ]


def test_builds_are_alike_and_keep_to_their_lock(
    write: Write, singbuild: Build, tmp_path: Path
) -> None:
    recipe = write(GOOD)
    assert singbuild("lock", recipe).returncode == 0
    done = singbuild("build", "--check-reproducible", "--no-cache", "--locked", recipe, "a.img")
    assert done.returncode == 0, done.stderr


def test_a_mirror_that_changed_is_not_what_was_locked(
    write: Write, singbuild: Build, mirror: tuple[Path, str], nothing_left: Callable[[], None]
) -> None:
    recipe = write("Include: hello\n")
    assert singbuild("lock", recipe).returncode == 0
    (mirror[0] / "clash-7-1.x86_64.rpm").unlink()
    rpm_repository.index(mirror[0])
    done = singbuild("build", "--locked", recipe, "a.img")
    assert done.returncode == 9
    assert "pins.repositories.base.repomd" in done.stderr
    nothing_left()


def test_packages_come_from_the_cache_the_second_time(
    write: Write, singbuild: Build, mirror: tuple[Path, str], tmp_path: Path
) -> None:
    recipe = write("Include: hello\n")
    assert singbuild(recipe, "a.img").returncode == 0
    for package in mirror[0].glob("*.rpm"):
        package.unlink()
    done = singbuild("build", "--no-cache", "--force", recipe, "a.img")
    assert done.returncode == 0, done.stderr


def strangers(place: Path) -> None:
    """Let somebody else sign a package."""
    with tempfile.TemporaryDirectory(prefix="stranger-") as directory:
        maker = rpm_repository.Maker(Path(directory))
        maker.key("stranger")
        maker.sign([place / "hello-7-1.x86_64.rpm"], "stranger")


def unsigned(place: Path) -> None:
    argv = ["rpmsign", "--delsign", str(place / "hello-7-1.x86_64.rpm")]
    subprocess.run(argv, check=True, capture_output=True)


def damaged(place: Path) -> None:
    """Change a byte of the signed header, as one who also controls the index would."""
    package = place / "hello-7-1.x86_64.rpm"
    content = package.read_bytes()
    package.write_bytes(content.replace(b"MIT\0", b"GPL\0"))
    assert package.read_bytes() != content


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        (strangers, r"hello-7-1\.x86_64: .*Signature.*NOKEY"),
        (unsigned, r"hello-7-1\.x86_64: no signature"),
        (damaged, r"hello-7-1\.x86_64: .*ignature.*BAD"),
    ],
)
def test_a_package_that_nobody_trusted_signed_is_refused(
    attack: Callable[[Path], None],
    says: str,
    write: Write,
    singbuild: Build,
    mirror: tuple[Path, str],
    nothing_left: Callable[[], None],
) -> None:
    attack(mirror[0])
    rpm_repository.index(mirror[0])
    done = singbuild(write("Include: hello\n"), "a.img")
    assert done.returncode == 6
    assert "1 package is not signed by a key of GPGKey" in done.stderr
    assert re.search(says, done.stderr), done.stderr
    nothing_left()


def test_a_wrong_key_trusts_no_package(
    write: Write, singbuild: Build, nothing_left: Callable[[], None]
) -> None:
    done = singbuild(write("Include: hello\n", key="stranger"), "a.img")
    assert done.returncode == 6
    assert "6 packages are not signed by a key of GPGKey" in done.stderr
    nothing_left()


def test_a_signature_over_sha_1_is_refused(
    result: Path, write: Write, singbuild: Build, mirror: tuple[Path, str]
) -> None:
    package = mirror[0] / "hello-7-1.x86_64.rpm"
    unsigned(mirror[0])
    rpm_repository.Maker(result.parent).sign([package], "site", _gpg_digest_algo="sha1")
    rpm_repository.index(mirror[0])
    done = singbuild(write("Include: hello\n"), "a.img")
    assert done.returncode == 6
    assert "hello-7-1.x86_64: signed over SHA1" in done.stderr


@pytest.mark.parametrize("spelling", ["{}", "file://{}"])
def test_a_key_may_be_a_file_of_this_host(
    spelling: str, result: Path, url: str, singbuild: Build, tmp_path: Path
) -> None:
    key = spelling.format(result / "RPM-GPG-KEY-site")
    head = HEADER.format(bootstrap="yum", url=url, key="site").rsplit("GPGKey", 1)[0]
    (tmp_path / "key.def").write_text(f"{head}GPGKey: {key}\n")
    done = singbuild("key.def", "key.img")
    assert done.returncode == 0, done.stderr
    lock = yaml.safe_load(singbuild("inspect", "--lock", "key.img").stdout)
    assert list(lock["pins"]["keys"]) == [key]


def test_no_look_at_signatures_must_be_written_and_is_recorded(
    recipe: Callable[[str], Path],
    url: str,
    singbuild: Build,
    mirror: tuple[Path, str],
    tmp_path: Path,
) -> None:
    unsigned(mirror[0])
    rpm_repository.index(mirror[0])
    header = HEADER.format(bootstrap="yum", url=url, key="site").rsplit("GPGKey", 1)[0]
    refused = singbuild(recipe(header + "Include: hello\n"), "a.img")
    assert refused.returncode == 3
    assert "the recipe names no key" in refused.stderr
    done = singbuild(recipe(header + "Include: hello\nGPGCheck: no\n"), "a.img")
    assert done.returncode == 0, done.stderr
    assert '"GPGCheck": "no"' in run_in(tmp_path / "a.img", "cat", "/.singularity.d/labels.json")


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        ("Include: wanting\n", 6, "nothing provides no-such-thing >= 3"),
        ("Include: hello clash\n", 6, "file /usr/bin/hello conflicts between"),
        ("Include: helo\n", 3, "Did you mean hello?"),
        ("Include: @tolls\n", 3, "have no '@tolls'"),
        ("Include: --nogpgcheck\n", 3, "is not a package of a repository"),
        ("SetOpt: gpgcheck=0\n", 3, "whether signatures are checked says GPGCheck"),
        ("SetOpt: base.gpgcheck=0\n", 3, "not for a recipe to set"),
        ("GPGCheck: maybe\n", 3, "neither yes nor no"),
        ("Excludes: coreutils\n", 6, "coreutils"),
        ("UpdateURL: http://127.0.0.1:9/updates\n", 6, "127.0.0.1:9 refuses connections"),
        ("Repositories: more=http://127.0.0.1:9/\n", 6, "refuses connections"),
        ("Repositories: base=http://127.0.0.1:9/\n", 3, "is there already"),
        ("Releasever: ../7\n", 3, "is not a release"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_left(
    more: str,
    status: int,
    says: str,
    write: Write,
    singbuild: Build,
    nothing_left: Callable[[], None],
) -> None:
    done = singbuild(write(more), "a.img")
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    nothing_left()


def test_a_directory_without_a_repository_is_named(
    recipe: Callable[[str], Path], url: str, singbuild: Build
) -> None:
    text = f"Bootstrap: yum\nOSVersion: 7\nMirrorURL: {url}/nowhere\nGPGCheck: no\n"
    done = singbuild(recipe(text), "a.img")
    assert done.returncode == 3
    assert "recipe.def:3" in done.stderr
    assert "there is no repository at" in done.stderr


def test_a_truncated_package_is_refused(
    write: Write,
    singbuild: Build,
    mirror: tuple[Path, str],
    nothing_left: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    package = mirror[0] / "hello-7-1.x86_64.rpm"
    package.write_bytes(package.read_bytes()[:-1000])
    done = singbuild(write("Include: hello\n"), "a.img")
    assert done.returncode == 6
    assert "hello-7-1.x86_64.rpm: has the wrong SHA-256" in done.stderr
    nothing_left()


@pytest.mark.parametrize("text", ["<repomd/>", "<!DOCTYPE", "\0", "<a>" * 10_000])
def test_an_index_that_is_none_is_refused(
    text: str, write: Write, singbuild: Build, mirror: tuple[Path, str]
) -> None:
    (mirror[0] / "repodata/repomd.xml").write_text(text)
    done = singbuild(write(), "a.img")
    assert done.returncode == 6
    assert "repomd.xml: cannot be understood" in done.stderr


def test_a_package_outside_the_repository_is_refused(
    write: Write, singbuild: Build, mirror: tuple[Path, str]
) -> None:
    argv = ["createrepo_c", "-q", "--no-database", "--location-prefix", "../../..", str(mirror[0])]
    subprocess.run(argv, check=True, capture_output=True)
    done = singbuild(write("Include: hello\n"), "a.img")
    assert done.returncode == 6
    assert "names a file outside itself" in done.stderr


@pytest.mark.parametrize(
    "mounts", ["true", "mount -t tmpfs none /proc/driver"], ids=["host", "pod"]
)
def test_an_ordinary_user_may_resolve(mounts: str, result: Path) -> None:
    """The host's dnf wants root; a container hides parts of /proc, and so forbids to mount it."""
    code = (
        "import sys, json; from pathlib import Path; from tests.bench.backend_alone import source;"
        "import singbuild_yum as y; s = source(Path(sys.argv[1]) / 'cache', OSVersion='7',"
        "MirrorURL=f'file://{sys.argv[1]}/7/os/x86_64', GPGCheck='no', Include='hello');"
        "print(len(y.backend.singbuild_resolve(s)['packages']))"
    )
    with shared_directory() as directory:
        shutil.copytree(result, directory / "7/os/x86_64")
        (directory / "cache").mkdir()
        (directory / "cache").chmod(0o777)
        script = f'{mounts}; exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"'
        words = ["sh", "-ec", script, "sh", SINGBUILD[0], "-c", code, str(directory)]
        done = subprocess.run(["unshare", "-m", *words], capture_output=True, text=True)
    assert done.stdout == "6\n", done.stderr


HOSTILE = """
mount -t tmpfs none /etc/dnf
mkdir /etc/dnf/vars /etc/dnf/repos.d
printf '[main]\\nplugins=1\\nexcludepkgs=*\\ninstallonly_limit=nonsense\\n' > /etc/dnf/dnf.conf
echo 99 > /etc/dnf/vars/releasever
printf '[stranger]\\nbaseurl=http://127.0.0.1:9/\\nenabled=1\\n' > /etc/dnf/repos.d/stranger.repo
mkdir "$1"
printf "%%_dbpath $1/database\\n%%_install_langs none\\n" > "$1/.rpmmacros"
HOME=$1; export HOME
shift
exec "$@"
"""


@pytest.mark.skipif(not Path("/etc/dnf").is_dir(), reason="dnf keeps its configuration elsewhere")
def test_nothing_of_the_hosts_configuration_leaks_in(
    write: Write, singbuild: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, hostile = write(GOOD), tmp_path / "home"
    assert singbuild(plain, "a.img").returncode == 0
    # Another cache: what dnf chose before must not be remembered.
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    argv = ["unshare", "--mount", "sh", "-ec", HOSTILE, "sh", f"{hostile}", *SINGBUILD]
    done = subprocess.run([*argv, plain, "b.img"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.img").read_bytes() == (tmp_path / "a.img").read_bytes()
    assert not (hostile / "database").exists()  # nobody asked the host's rpm as this user


def test_a_killed_build_leaves_nothing_that_the_next_one_keeps(
    write: Write, singbuild: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    recipe = write("Include: hello\n")
    for phase, delay in (("resolve", 0.6), ("bootstrap", 0.1)):
        status = killed_in(phase, signal.SIGKILL, [recipe, "a.img"], tmp_path, delay)
        assert status == -signal.SIGKILL
    done = singbuild(recipe, "a.img")
    assert done.returncode == 0, done.stderr
    endings = [path.suffix for path in (tmp_path / "cache/yum").iterdir()]
    assert not {".solving", ".part"} & {*endings}
    assert not [*(tmp_path / "scratch").iterdir()]
