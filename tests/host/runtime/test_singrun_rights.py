"""Who the program is and what it may: --fakeroot, --security, capabilities; --net and --dns."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root
NONE = "0" * 16


@pytest.fixture(params=["root, loop", "user", "user, unpack"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people[request.param]
    images.wait_for_daemons(str(bench.directory))


# Runs a command where nobody is lent any ids.
NONE_LENT = """
for file in /etc/subuid /etc/subgid; do mount --bind /dev/null $file; done
exec "$@"
"""


def test_root_inside_is_the_caller_outside(person: Person, bench: Bench) -> None:
    script = "id -u; id -g; whoami; pwd; echo $HOME; touch ~/made-by-root; echo x >/tmp/$0"
    result = [Path(person.home, "made-by-root"), Path(f"/tmp/made-by-root-{os.getpid()}")]
    words = ("--fakeroot", bench.image, "sh", "-c", script, result[1].name)
    try:
        output = person.output("exec", *words, cwd="/tmp").split()
        assert output == ["0", "0", "root", "/tmp", "/root"]
        assert [each.stat().st_uid for each in result] == [person.uid] * 2
    finally:
        for each in result:
            each.unlink()


def test_files_of_other_users_with_ids_that_are_lent(bench: Bench) -> None:
    user = bench.people["user"]
    uids, gids = (images.subordinate_ids(user.name, kind)[0].start for kind in ("uid", "gid"))
    own = bench.directory / "own"
    own.mkdir()
    os.chown(own, user.uid, user.gid)
    script = (
        "touch /x/f; /bin/busybox chown 33:34 /x/f; stat -c %u:%g /x/f; exec cat /proc/self/uid_map"
    )
    output = user.output(
        "exec", "-f", "-B", f"{own}:/x", bench.image, "sh", "-c", script
    ).splitlines()
    assert output[0] == "33:34"
    assert (own / "f").stat().st_uid == uids + 32
    assert (own / "f").stat().st_gid == gids + 33
    assert [line.split() for line in output[1:]] == [["0", "0", "1"], ["1", "1", "65535"]]
    shutil.rmtree(own)


def test_with_one_id_where_none_are_lent_or_newuidmap_refuses(bench: Bench) -> None:
    user = bench.people["user"]
    inside = ("sh", "-c", "id -u; cat /proc/self/uid_map")
    words = user.words(user.launcher, "exec", "--fakeroot", bench.tree, *inside)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", NONE_LENT, "sh", *words],
        env=user.environment(),
        cwd="/",
        capture_output=True,
        check=False,
    )
    assert done.stdout.split() == [b"0", b"0", b"0", b"1"], done
    words = [*user.words(), "--no-new-privs", str(user.launcher)]
    done = subprocess.run(
        [*words, "exec", "--fakeroot", str(bench.tree), "id", "-u"],
        env=user.environment(),
        cwd="/",
        capture_output=True,
        check=False,
    )
    assert done.stdout == b"0\n", done
    assert b"newuidmap refuses" in done.stderr


def test_root_of_fakeroot_is_no_master_of_the_mounts(bench: Bench) -> None:
    user = bench.people["user"]
    script = "/bin/busybox mount -o remount,rw / || /bin/busybox umount /proc || echo kept"
    done = user.singrun("exec", "--fakeroot", bench.image, "sh", "-c", script)
    assert done.stdout == b"kept\n"


def test_an_instance_with_fakeroot(bench: Bench) -> None:
    user = bench.people["user"]
    assert user.singrun("start", "--fakeroot", bench.image, "rooted").returncode == 0
    try:
        words = ("exec", "instance://rooted", "sh", "-c", "id -u; echo $HOME")
        assert user.call(user.launcher, *words, cwd="/").stdout == b"0\n/root\n"
    finally:
        user.call(user.launcher, "stop", "rooted")
    images.wait_for_daemons(str(bench.directory))


def test_fakeroot_is_not_for_sudo(bench: Bench) -> None:
    root, user = bench.people["root, loop"], bench.people["user"]
    environment = {"SUDO_UID": str(user.uid), "SUDO_GID": str(user.gid), "PATH": "/usr/bin:/bin"}
    for option in (["--fakeroot"], ["--security", "uid:0"]):
        done = root.singrun(
            "exec", "--as-caller", *option, bench.image, "id", env=environment, cwd="/"
        )
        assert (done.returncode, b"Cannot combine --as-caller" in done.stderr) == (255, True)


def test_another_user_inside(person: Person, bench: Bench) -> None:
    options = ("--security", "uid:4321,gid:4322")
    output = person.output("exec", *options, bench.image, "sh", "-c", "id -u; id -g", cwd="/")
    assert output == "4321\n4322\n"
    for word, needle in (("seccomp:/x", b"no profile"), ("uid:x", b"Say uid:NUMBER")):
        done = person.singrun("exec", "--security", word, bench.image, "true")
        assert (done.returncode, needle in done.stderr) == (255, True), done


def effective(person: Person, *options: str | Path) -> str:
    script = "grep CapEff /proc/self/status"
    return person.output("exec", *options, "sh", "-c", script, cwd="/").split()[1]


def test_capabilities(bench: Bench) -> None:
    root, user = bench.people["root, loop"], bench.people["user"]
    everything = effective(root, bench.image)
    assert int(everything, 16) & 1 << 21  # CAP_SYS_ADMIN
    assert effective(root, "--keep-privs", bench.image) == everything
    assert effective(root, "--no-privs", bench.image) == NONE
    assert effective(root, "--drop-caps", "all", bench.image) == NONE
    rest = int(everything, 16) & ~(1 << 0) & ~(1 << 13)
    assert int(effective(root, "--drop-caps", "CAP_CHOWN,net_raw", bench.image), 16) == rest
    assert effective(user, bench.image) == NONE
    assert int(effective(user, "--add-caps", "all", bench.image), 16) & 1 << 21
    assert int(effective(user, "--add-caps", "CAP_NET_RAW", bench.image), 16) == 1 << 13
    words = ("--security", "uid:77,gid:78", "--add-caps", "chown", bench.image)
    assert int(effective(root, *words), 16) == 1
    assert effective(user, "--fakeroot", "--no-privs", bench.image) == NONE
    done = user.singrun("exec", "--keep-privs", bench.image, "true")
    assert (done.returncode, b"It is for root" in done.stderr) == (255, True)
    done = user.singrun("exec", "--add-caps", "net_rwa", bench.image, "true")
    assert (done.returncode, b"Did you mean CAP_NET_RAW?" in done.stderr) == (255, True)
    done = user.singrun("start", "--no-privs", bench.image, "x")
    assert (done.returncode, b"each command" in done.stderr) == (255, True)
    images.wait_for_daemons(str(bench.directory))


@pytest.mark.parametrize("options", [["--net"], ["--net", "--network", "none"], ["--network=none"]])
def test_a_network_of_its_own_has_loopback_alone(
    person: Person, bench: Bench, options: list[str]
) -> None:
    script = "cat /proc/net/dev; /bin/busybox ping -c1 -w9 127.0.0.1 >/dev/null && echo up"
    if person.uid:  # who may send no ICMP looks at the flags
        script = "cat /proc/net/dev; /bin/busybox ip link show lo"
    output = person.output("exec", *options, bench.image, "sh", "-c", script)
    names = [
        line.split(":")[0].strip() for line in output.splitlines() if " 0 " in line and ":" in line
    ]
    assert names == ["lo"]
    assert "up" in output.lower().replace("group", "")


def test_other_networks_are_refused(person: Person, bench: Bench) -> None:
    done = person.singrun("exec", "--network", "bridge", bench.image, "true")
    assert done.returncode == 255
    assert b"There is no network bridge" in done.stderr
    assert b"--network none" in done.stderr


def test_an_instance_has_its_network(bench: Bench) -> None:
    user = bench.people["user"]
    start = ("start", "--net", "--network", "none", "--network-args", "IP=10.0.0.2")
    done = user.singrun(*start, bench.image, "netted")
    assert (done.returncode, b"Without effect: --network-args" in done.stderr) == (0, True), done
    try:
        inside = user.call(
            user.launcher, "exec", "instance://netted", "readlink", "/proc/self/ns/net"
        )
        assert inside.stdout.strip().decode() not in ("", os.readlink("/proc/self/ns/net"))
    finally:
        user.call(user.launcher, "stop", "netted")
    images.wait_for_daemons(str(bench.directory))


def test_name_servers(person: Person, bench: Bench) -> None:
    options = ("--dns", "192.0.2.1,2001:db8::1")
    output = person.output("exec", *options, bench.image, "cat", "/etc/resolv.conf")
    assert output == "nameserver 192.0.2.1\nnameserver 2001:db8::1\n"
    done = person.singrun("exec", "--dns", "a b\nc", bench.image, "true")
    assert (done.returncode, b"Give addresses" in done.stderr) == (255, True)
