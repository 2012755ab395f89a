"""The switches of isolation and sharing, the environment's layers, identity and the site's file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root


@pytest.fixture(params=["root, loop", "user", "user, unpack"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people[request.param]
    images.wait_for_daemons(str(bench.directory))


@pytest.fixture
def own(person: Person, bench: Bench) -> Iterator[Path]:
    path = bench.directory / f"own-{person.name}"
    path.mkdir()
    os.chown(path, person.uid, person.gid)
    yield path
    shutil.rmtree(path)


def test_a_host_name_of_its_own(person: Person, bench: Bench) -> None:
    assert person.output("exec", "--hostname", "node-7", bench.image, "hostname") == "node-7\n"
    host = os.uname().nodename
    assert person.output("exec", "--uts", bench.image, "hostname") == f"{host}\n"
    namespaces = [
        person.output("exec", *options, bench.image, "readlink", "/proc/self/ns/uts").strip()
        for options in ([], ["--uts"])
    ]
    assert namespaces[0] == os.readlink("/proc/self/ns/uts") != namespaces[1]
    assert os.uname().nodename == host
    done = person.singrun("exec", "--hostname", "x" * 65, bench.image, "true")
    assert (done.returncode, b"64 letters" in done.stderr) == (255, True)


def test_containall_keeps_processes_ipc_environment_and_files_apart(
    person: Person, bench: Bench
) -> None:
    script = "echo $SECRET; echo $$; readlink /proc/self/ns/ipc; ls -A ~ /tmp"
    settings = person.environment() | {"SECRET": "x"}
    output = person.output("exec", "-C", bench.image, "sh", "-c", script, env=settings).splitlines()
    assert output[0] == ""
    assert int(output[1]) < 20
    assert output[2] != os.readlink("/proc/self/ns/ipc")
    assert output[3:] == [f"{person.home}:", "", "/tmp:"]


def test_a_fuse_daemon_is_not_seen_in_a_pid_namespace(person: Person, bench: Bench) -> None:
    script = "cat /proc/[0-9]*/comm"
    output = person.output("exec", "-p", bench.image, "sh", "-c", script)
    assert "fuse2fs" not in output
    assert "cat" in output


def test_scratch_directories_are_empty_writable_and_gone(person: Person, bench: Bench) -> None:
    script = "ls -A /a/b /scr; echo x >/scr/x; echo x >/a/b/x; cat /scr/x"
    for _ in range(2):
        output = person.output("exec", "-S", "/scr,/a/b", bench.image, "sh", "-c", script)
        assert output == "/a/b:\n\n/scr:\nx\n"


def test_a_workdir_keeps_scratch_home_and_tmp(person: Person, bench: Bench, own: Path) -> None:
    script = "echo x >/scr/kept; echo x >~/home; echo x >/tmp/tmp; echo x >/var/tmp/var"
    options = ("-c", "-S", "/scr", "-W", own)
    person.output("exec", *options, bench.image, "sh", "-c", script)
    assert {str(path.relative_to(own)) for path in own.rglob("*") if path.is_file()} == {
        "scratch/scr/kept",
        "home/home",
        "tmp/tmp",
        "var_tmp/var",
    }
    done = person.singrun("exec", "-c", "-W", own / "none", bench.image, "true")
    assert (done.returncode, b"Make it first" in done.stderr) == (255, True)


def test_no_mount_leaves_out_what_it_names(person: Person, bench: Bench) -> None:
    mark = Path(person.home, f"seen-{os.getpid()}")
    mark.touch()
    script = "ls -A ~ /tmp /sys 2>/dev/null; cat /etc/hosts; ls /proc"
    options = ("--no-mount", "home,tmp,sys,/etc/hosts", "--no-mount=proc,cwd")
    output = person.singrun("exec", *options, bench.image, "sh", "-c", script).stdout.decode()
    assert mark.name not in output
    assert output.split("/tmp:\n")[1].strip() in ("", "/sys:")
    mark.unlink()
    done = person.singrun("exec", "--no-mount", "hom", bench.image, "true")
    assert (done.returncode, b"bind-paths" in done.stderr) == (255, True)
    assert person.singrun("exec", "--no-mount", "dev", bench.image, "ls", "/dev").stdout == b""


def test_binds_by_variable(person: Person, bench: Bench, own: Path) -> None:
    (own / "file").write_text("bound")
    for name in ("SINGRUN_BIND", "SINGULARITY_BINDPATH"):
        settings = person.environment() | {name: f"{own}:/data:ro,/etc:/more"}
        assert person.output("exec", bench.image, "cat", "/data/file", env=settings) == "bound"


def test_a_bind_over_a_symbolic_link(person: Person, bench: Bench, own: Path) -> None:
    tree = bench.directory / "links"
    if not tree.exists():
        bench.variant("links")
        (tree / "etc/real").mkdir()
        (tree / "etc/real/old").touch()
        (tree / "linked").symlink_to("etc/real")
        (tree / "etc/file-link").symlink_to("real/old")
        images.ext3(tree, bench.directory / "links.img")
    (own / "new").write_text("new")
    options = ("-B", f"{own}:/linked", "-B", f"{own}/new:/etc/file-link")
    script = "ls /etc/real; cat /etc/file-link"
    output = person.output("exec", *options, bench.directory / "links.img", "sh", "-c", script)
    assert output == "new\nnew"


@pytest.mark.parametrize("kind", ["link", "dangling", "missing"])
def test_localtime_and_hosts_as_links_or_missing(person: Person, bench: Bench, kind: str) -> None:
    tree = bench.directory / f"files-{kind}"
    if not tree.exists():
        bench.variant(f"files-{kind}")
        for name in ("localtime", "hosts", "resolv.conf"):
            (tree / "etc" / name).unlink()
            if kind != "missing":
                goal = "../usr/share/goal" if kind == "link" else "/nowhere/at/all"
                (tree / "etc" / name).symlink_to(goal)
        if kind == "link":
            (tree / "usr/share").mkdir(parents=True)
            (tree / "usr/share/goal").touch()
        images.ext3(tree, tree.with_suffix(".img"))
    output = person.output("exec", tree.with_suffix(".img"), "cat", "/etc/hosts")
    assert output == Path("/etc/hosts").read_text()
    settings = person.environment() | {"TZ": "UTC-3"}
    hour = subprocess.run(["date", "+%z"], env={"TZ": "UTC-3"}, capture_output=True, check=True)
    output = person.output("exec", tree.with_suffix(".img"), "date", "+%z", env=settings)
    assert output == hour.stdout.decode()


def test_the_layers_of_the_environment(person: Person, bench: Bench, own: Path) -> None:
    (own / "file").write_text("# comment\n\nFROM_IMAGE=file\nexport QUOTED='a b'\nRAW=$HOME`x`\n")
    settings = person.environment() | {"FROM_IMAGE": "host", "ONLY": "host"}
    script = 'echo "$FROM_IMAGE|$ONLY"'
    levels: list[tuple[dict[str, str], list[str], str]] = [
        ({}, [], "yes it is"),
        ({"SINGULARITYENV_FROM_IMAGE": "low"}, [], "low"),
        ({"APPTAINERENV_FROM_IMAGE": "middle"}, [], "middle"),
        ({"SINGRUNENV_FROM_IMAGE": "it's $(id) \\ `x`"}, [], "it's $(id) \\ `x`"),
        ({}, ["--env-file", str(own / "file")], "file"),
        ({}, ["--env", "FROM_IMAGE=a=b c"], "a=b c"),
    ]
    options: list[str] = []
    for more, words, expected in levels:
        settings |= more
        options = [*words, *options]
        output = person.output("exec", *options, bench.image, "sh", "-c", script, env=settings)
        assert output == f"{expected}|host\n"
    output = person.output("exec", *options, bench.image, "env", env=settings)
    assert "QUOTED=a b\n" in output
    assert "RAW=$HOME`x`\n" in output
    assert "ENV_FROM_IMAGE" not in output
    for words in (["--env", "NOVALUE"], ["--env-file", "/no/such"], ["--env", "=x"]):
        assert person.singrun("exec", *words, bench.image, "true").returncode == 255


def test_the_path_can_be_set_and_odd_values_survive(person: Person, bench: Bench) -> None:
    value = "line one\nline 'two' \"three\" $X \\\\ \t end"
    script = 'printf "%s" "$ODD|$PATH"'
    options = ("--env", f"ODD={value}", "--env", "PATH=/bin:/mine")
    assert person.output("exec", *options, bench.image, "sh", "-c", script) == f"{value}|/bin:/mine"


def test_variables_in_images_of_2016(person: Person, bench: Bench) -> None:
    tree = bench.directory / "older"
    if not tree.exists():
        bench.variant("older")
        shutil.rmtree(tree / ".singularity.d")
        (tree / "environment").write_text("export A=image B=image\n")
        images.write_script(tree / ".exec", '#!/bin/sh\n. /environment\nexec "$@"\n')
        images.ext3(tree, tree.with_suffix(".img"))
    script = 'echo "$A $B"'
    image = tree.with_suffix(".img")
    assert person.output("exec", "--env", "A=mine", image, "sh", "-c", script) == "mine image\n"


def test_env_says_who_set_a_variable(person: Person, bench: Bench) -> None:
    settings = person.environment() | {"FROM_IMAGE": "outside", "SINGRUNENV_FROM_IMAGE": "prefixed"}
    options = ("--why", "FROM_IMAGE", "--env", "FROM_IMAGE=top")
    output = person.output("env", *options, bench.image, env=settings).splitlines()
    assert output == [
        "host or singrun: FROM_IMAGE=outside",
        "image, /.singularity.d/env/90-environment.sh: FROM_IMAGE=yes it is",
        "SINGRUNENV_FROM_IMAGE: FROM_IMAGE=prefixed",
        "--env: FROM_IMAGE=top",
        "set by: --env",
    ]
    assert person.output("env", "--why", "NOTHING", bench.image) == "set by: nobody\n"
    assert "FROM_IMAGE=yes it is\n" in person.output("env", bench.image)
    done = person.singrun("env", "--why", "A;reboot", bench.image)
    assert done.returncode == 255


def test_plan_tells_every_mount_and_does_nothing(person: Person, bench: Bench, own: Path) -> None:
    options = ("--plan", "-B", f"{own}:/data:ro", "-S", "/scr", "-W", own, "-c")
    output = person.output("exec", *options, bench.image, "touch", own / "done")
    assert output.splitlines()[0].endswith(f"{bench.image} on /: the ext3 image, read-only")
    assert f"bind {own} on /data read-only: --bind\n" in output
    assert f"bind {own}/scratch/scr on /scr: --workdir\n" in output
    assert list(own.iterdir()) == []


def test_a_shell_of_ones_choice(person: Person, bench: Bench) -> None:
    output = person.output("shell", "-s", "/bin/busybox", bench.image, "echo", "chosen")
    assert output == "chosen\n"
    done = person.singrun("shell", "--shell", "/bin/zsh", bench.image)
    assert (done.returncode, b"/bin/zsh" in done.stderr) == (255, True)


def test_through_sudo_as_the_caller(bench: Bench) -> None:
    root, user = bench.people["root, loop"], bench.people["user"]
    settings = {
        "SUDO_UID": str(user.uid),
        "SUDO_GID": str(user.gid),
        "HOME": "/root",
        "USER": "root",
    }
    settings["PATH"] = "/usr/bin:/bin"
    script = "id -u; id -un; cd; pwd; echo $USER; touch ~/mine; grep CapEff /proc/self/status"
    options = ("--as-caller", bench.image, "sh", "-c", script)
    output = root.output("exec", *options, env=settings, cwd="/").splitlines()
    assert output[:4] == [str(user.uid), user.name, user.home, user.name]
    assert output[4].split()[1] == "0" * 16
    mine = Path(user.home, "mine")
    assert mine.owner() == user.name
    mine.unlink()
    groups = root.output(
        "exec", "--as-caller", bench.image, "id", "-G", env=settings, cwd="/"
    ).split()
    outside = user.call("id", "-G").stdout.decode().split()
    assert set(groups) == set(outside)
    done = root.singrun("exec", "--as-caller", bench.image, "true")
    assert (done.returncode, b"SUDO_UID" in done.stderr) == (255, True)


def test_a_user_without_a_passwd_entry_has_a_name_inside(bench: Bench) -> None:
    become = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
    for settings, name in (({}, "user54321"), ({"USER": "joe"}, "joe"), ({"USER": "root"}, None)):
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp"} | settings
        words = [*become, str(bench.launcher), "exec", str(bench.image), "id"]
        done = subprocess.run(
            words, env=environment, cwd="/", capture_output=True, text=True, check=False
        )
        assert done.stdout.startswith(f"uid=54321({name or 'user54321'}) gid=54321"), done
    shutil.rmtree("/var/tmp/singrun-54321", ignore_errors=True)
    images.wait_for_daemons(str(bench.directory))


def test_the_doctor(person: Person, bench: Bench) -> None:
    text = person.call(bench.launcher, "doctor")
    assert (text.returncode, text.stderr) == (0, b"")
    assert b"user namespaces: can be created" in text.stdout
    ways = b"fuse2fs, unpack" if person.uid else b"loop, fuse2fs, unpack"
    assert text.stdout.strip().endswith(b"mounted by: " + ways)
    result = json.loads(person.call(bench.launcher, "doctor", "--json").stdout)["findings"]
    topics = {each["topic"]: each for each in result}
    assert topics["/dev/fuse"]["good"] is True
    assert {"overlay", "subordinate ids", "cgroups", "cache directory", "loop devices"} <= set(
        topics
    )
    if person.uid:  # nothing is closed to root
        settings = person.environment() | {"SINGRUN_CACHEDIR": "/etc/nowhere"}
        done = person.call(bench.launcher, "doctor", env=settings)
        assert re.search(rb"cache directory: .*\n +-> .*SINGRUN_CACHEDIR", done.stdout)
    assert person.call(bench.launcher, "doctor", "--xml").returncode == 1


def test_the_doctor_names_what_is_missing(bench: Bench) -> None:
    user = bench.people["user"]
    fuse = Path("/dev/fuse")
    mode = fuse.stat().st_mode & 0o777
    fuse.chmod(0o600)
    try:
        output = user.call(bench.launcher, "doctor").stdout
    finally:
        fuse.chmod(mode)
    assert b"/dev/fuse: Permission denied" in output
    assert b"mode 0666" in output
    assert output.strip().endswith(b"Images are mounted by: unpack")
