"""What the site's singrun.conf decides: mounts, caches, refusals."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from singrun import config
from tests.bench.host import PATIENCE
from tests.bench.singrun_images import Bench

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("lines", "options", "inside", "expected"),
    [
        ("mount home = no", [], "ls -A /home", "other\n"),
        ("mount tmp = no", [], "ls -A /tmp | wc -l", "0\n"),
        ("mount proc = no\nmount sys=no", [], "ls -A /proc /sys", "/proc:\n\n/sys:\n"),
        ("mount dev = minimal", [], "ls /dev | grep -c loop", "0\n"),
        ("config passwd = no", [], "grep -c singrun /etc/passwd", "0\n"),
        ("config group = no", [], "grep -c singrun /etc/group", "0\n"),
        ("config resolv_conf = no", [], "wc -c </etc/resolv.conf", "0\n"),
        ("mount dev = no", [], "ls -A /dev | wc -l", "0\n"),
        ("bind path = /etc/debian_version:/etc/bound", [], "ls /etc/bound", "/etc/bound\n"),
        ("# nothing\n\nbind path =\n", [], "wc -c </etc/hosts", "0\n"),
        ("container dir = /x\nallow setuid = yes", [], "echo fine", "fine\n"),
    ],
)
def test_the_sites_file(
    bench: Bench, lines: str, options: list[str], inside: str, expected: str
) -> None:
    user = bench.people["user"]
    site = bench.directory / "singrun.conf"
    site.write_text(lines)
    environment = user.environment() | {"SINGRUN_CONFIG": str(site)}
    done = user.singrun("exec", *options, bench.image, "sh", "-c", inside, env=environment, cwd="/")
    assert done.stdout.decode() == expected, done
    assert done.stderr == b""


def test_file_systems_of_the_host_by_the_sites_wish(bench: Bench) -> None:
    """In a mount namespace of the test's own, in which the host has more of them, one hidden."""
    user = bench.people["user"]
    site = bench.directory / "singrun.conf"
    for value, expected in (("yes", "hosted\n"), ("no", "")):
        site.write_text(f"mount hostfs = {value}\n")
        environment = user.environment() | {"SINGRUN_CONFIG": str(site)}
        words = user.words(user.launcher, "exec", bench.image, "ls", "/srv/deep")
        mount = "mount -t tmpfs none"
        script = (
            f"{mount} /srv; mkdir /srv/hidden; {mount} /srv/hidden; {mount} /srv;"
            f" mkdir /srv/deep; {mount} /srv/deep; touch /srv/deep/hosted"
        )
        unshared = ["unshare", "-m", "sh", "-c", f'{script}; exec "$@"']
        command: list[str | bytes] = [*unshared, "sh", *words]
        done = subprocess.run(command, env=environment, cwd="/", capture_output=True, check=False)
        assert (done.returncode == 0, done.stdout.decode()) == (value == "yes", expected), done


def test_mounts_that_the_host_makes_later_appear_unless_the_site_says_no(bench: Bench) -> None:
    """The test's own mount namespace, whose mounts are shared, stands for the host's."""
    user = bench.people["user"]
    site = bench.directory / "singrun.conf"
    later = bench.directory / "later"
    later.mkdir()
    launch = (user.launcher, "exec", "-B", later, bench.image, "sh", "-c", "echo up; read x; ls $0")
    command = " ".join(f"'{os.fsdecode(word)}'" for word in user.words(*launch, later))
    script = (
        "mount --make-rshared /; mkfifo go; exec 3<>go;"
        f" {command} <&3 | {{ read up; mount -t tmpfs none {later}; touch {later}/seen;"
        " echo >&3; cat; }"
    )
    for value, expected in (("yes", b"seen\n"), ("no", b"")):
        site.write_text(f"mount slave = {value}\n")
        environment = user.environment() | {"SINGRUN_CONFIG": str(site)}
        unshared = ["unshare", "-m", "sh", "-c", script]
        done = subprocess.run(
            unshared,
            env=environment,
            cwd=bench.directory,
            capture_output=True,
            check=False,
            timeout=60 * PATIENCE,
        )
        (bench.directory / "go").unlink()
        assert (done.stdout, done.stderr) == (expected, b""), (value, done)


def test_the_sites_cache_directory_is_used(bench: Bench) -> None:
    user = bench.people["user"]
    site, cache = bench.directory / "singrun.conf", bench.directory / "site-cache"
    cache.mkdir()
    os.chown(cache, user.uid, user.gid)
    site.write_text(f"cache directory = {cache}\ncache size = 1G\n")
    environment = user.environment() | {"SINGRUN_CONFIG": str(site)}
    user.output("exec", "--mount-with", "unpack", bench.image, "true", env=environment)
    assert len([*cache.iterdir()]) == 1
    for size in ("5 G", "5GB", "5GiB", "5g", "100"):
        site.write_text(f"cache directory = {cache}\ncache size = {size}\n")
        user.output("exec", bench.image, "true", env=environment)
    site.write_text(f"cache directory = {cache}\ncache size = much\n")
    done = user.singrun("exec", bench.image, "true", env=environment)
    assert (done.returncode, b"Say for instance 20G" in done.stderr) == (255, True)
    missing = environment | {"SINGRUN_CONFIG": f"{site}.none"}
    assert b"There is no file" in user.singrun("exec", bench.image, "true", env=missing).stderr


def test_each_user_has_a_cache_directory_of_his_own(bench: Bench) -> None:
    user, root = bench.people["user"], bench.people["root, loop"]
    site, place = bench.directory / "singrun.conf", bench.directory / "node"
    place.mkdir()
    for person in (user, root):
        (place / f"cache-{person.uid}").mkdir()
        os.chown(place / f"cache-{person.uid}", person.uid, person.gid)
    for words, variables in (
        (f"{place}/cache-%U", {}),
        ("$JOB_DIR/cache-%U", {"JOB_DIR": str(place)}),
        ("${JOB_DIR}/cache-%U", {"JOB_DIR": str(place)}),
    ):
        site.write_text(f"cache directory = {words}\n")
        for person in (user, root):
            environment = person.environment() | {"SINGRUN_CONFIG": str(site)} | variables
            environment.pop("SINGRUN_CACHEDIR", None)
            person.output("warm", bench.image, env=environment)
            remaining = [*(place / f"cache-{person.uid}").iterdir()]
            assert len(remaining) == 1
            shutil.rmtree(remaining[0])


def test_a_variable_that_is_not_set_leaves_the_cache_where_it_is_by_default() -> None:
    assert config.expanded("$NO/x", {"NO": ""}) == ""
    assert config.expanded("/a/${X}y/$X", {"X": "1"}) == "/a/1y/1"


def test_what_the_sites_file_refuses_and_reports(bench: Bench) -> None:
    user = bench.people["user"]
    site = bench.directory / "singrun.conf"
    environment = user.environment() | {"SINGRUN_CONFIG": str(site)}
    for lines, options, word in (
        ("allow pid ns = no", ["-p"], b"allow pid ns = no"),
        ("allow ipc ns = no", ["-i"], b"allow ipc ns = no"),
        ("user bind control = no", ["-B", "/etc:/data"], b"user bind control = no"),
        ("enable overlay = no", ["--writable-tmpfs"], b"enable overlay = no"),
        ("allow user ns = no", [], b"allow user ns = no"),
        ("mount home = perhaps", [], b"line 1"),
    ):
        site.write_text(lines)
        done = user.singrun("exec", *options, bench.image, "true", env=environment)
        assert (done.returncode, word in done.stderr) == (255, True), done
    site.write_text("\nmuont home = no\n")
    done = user.singrun("exec", bench.image, "true", env=environment)
    assert done.returncode == 0
    message = b"singrun.conf, line 2: there is no directive 'muont home'; did you mean"
    assert message in done.stderr
    assert (
        user.singrun("doctor", env=environment).stderr.count(message) == 1
    )  # for all of its trials
