"""What is shared, what is kept apart, and that a hostile image reaches nothing of the host."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.host import PATIENCE
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root


@pytest.fixture(params=["root, loop", "root, fuse2fs", "user"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people[request.param]
    images.wait_for_daemons(str(bench.directory))


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory, bench: Bench) -> Iterator[Path]:
    """A directory of the host below /srv, which no launch shares by itself."""
    path = Path(f"/srv/singrun-{os.getpid()}, a:b")
    path.mkdir()
    (path / "file").write_text("of the host\n")
    path.chmod(0o777)
    yield path
    subprocess.run(["rm", "-r", path], check=True)


def escaped(path: Path) -> str:
    return str(path).replace(",", "\\,").replace(":", "\\:")


def test_bind_on_an_existing_directory(person: Person, bench: Bench, data: Path) -> None:
    output = person.output(
        "exec", "-B", f"{escaped(data)}:/home/other", bench.image, "ls", "/home/other"
    )
    assert output == "file\n"


@pytest.mark.parametrize("target", ["/made", "/usr/made/deep/er", "/etc/made", "/home/other/made"])
def test_a_missing_bind_target_is_made_and_its_neighbours_stay(
    person: Person, bench: Bench, data: Path, target: str
) -> None:
    script = f"cat {target}/file; echo x >{target}/new; rm {target}/new; ls / /etc /home"
    output = person.output(
        "exec", "--bind", f"{escaped(data)}:{target}", bench.image, "sh", "-c", script
    )
    plain = person.output("exec", bench.image, "ls", "/", "/etc", "/home")
    assert output.startswith("of the host\n")
    assert set(plain.split()) <= set(output.split())
    assert "lost+found" in output


def test_underlays_are_as_read_only_as_the_image(person: Person, bench: Bench, data: Path) -> None:
    script = "for d in / /etc /usr /usr/made; do touch $d/x 2>&1; done; ls -ld /usr"
    bind = f"{escaped(data)}:/usr/made/deep"
    output = person.singrun("exec", "-B", bind, bench.image, "sh", "-c", script).stdout.decode()
    assert output.count("Read-only file system") == 4, output


def test_an_underlay_shows_those_below_it(person: Person, bench: Bench, data: Path) -> None:
    tree = bench.directory / "host-over-ours"
    tree.mkdir(exist_ok=True)
    binds = ",".join(f"{escaped(data)}:{t}" for t in ("/etc/one", "/two", "/etc/three", "/two2"))
    script = "ls /etc/one /two /etc/three; for d in / /etc; do touch $d/x 2>&1; done"
    output = person.singrun("exec", "-B", binds, bench.image, "sh", "-c", script).stdout.decode()
    assert (output.count("file\n"), output.count("Read-only file system")) == (3, 2), output
    entry_over = f"{escaped(tree)}:/tmp,{escaped(data)}:/two,{escaped(data)}:/tmp/new"
    done = person.singrun("exec", "-c", "-B", entry_over, bench.image, "ls")
    assert (done.returncode, done.stderr) == (0, b""), done
    result = [each.name for each in tree.iterdir()]  # in what is bound writable, if it is one's own
    assert result == ([] if person.uid else ["new"])
    for name in result:
        (tree / name).rmdir()


def test_a_read_only_bind_and_a_file(person: Person, bench: Bench, data: Path) -> None:
    binds = (
        f"{escaped(data)}:/data:ro,{escaped(data)}/file:/etc/hosts,{escaped(data)}/file:/one/file"
    )
    script = "cat /etc/hosts /one/file; touch /data/x"
    done = person.singrun("exec", "-B", binds, bench.image, "sh", "-c", script)
    assert done.stdout == b"of the host\n" * 2
    assert b"Read-only file system" in done.stderr


def test_binds_that_cannot_be(person: Person, bench: Bench, data: Path) -> None:
    for bind, word in {
        "/no/such:/data": b"/no/such",
        "/etc:data": b"data",
        "/etc:/": b"Cannot bind on /",
        "/etc:/bin/busybox": b"/bin/busybox",
        "/etc:/bin/busybox/x": b"/bin/busybox",
        "/etc/hosts:/etc": b"directory",
        "/etc:/a:rx": b"SRC",
        "/etc:/tmp/no/such": b"creates nothing",
    }.items():
        done = person.singrun("exec", "-B", bind, bench.image, "true")
        assert done.returncode == 255, bind
        assert word in done.stderr, done
        assert b"Traceback" not in done.stderr
    assert not Path("/tmp/no").exists()


def test_contain_shares_neither_home_nor_tmp_nor_devices(
    person: Person, bench: Bench, data: Path
) -> None:
    name = f"x-{os.getpid()}"
    script = f"echo x >~/{name}; echo x >/tmp/{name}; echo x >/dev/null"
    script = f"pwd; ls /dev; ls -A ~ /tmp /var/tmp; {script}"
    done = person.singrun("exec", "-c", bench.image, "sh", "-c", script, cwd=data)
    assert (done.returncode, done.stderr) == (0, b"")
    first, *rest = done.stdout.decode().split()
    assert first == person.home
    devices = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "fd"}
    assert {*devices, "stdin", "stdout", "stderr"} == set(rest) - {
        f"{person.home}:",
        "/tmp:",
        "/var/tmp:",
    }
    assert not Path(person.home, name).exists()
    assert not Path("/tmp", name).exists()


def test_home_elsewhere_and_no_home(person: Person, bench: Bench, data: Path) -> None:
    script = "cd; pwd; cat file"
    output = person.output("exec", "-H", f"{escaped(data)}:/h/ome", bench.image, "sh", "-c", script)
    assert output == "/h/ome\nof the host\n"
    marker = Path(person.home, f"marker-{os.getpid()}")
    marker.touch()
    try:
        script = f'[ ! -e "{marker}" ] && pwd'
        options = ("--no-home", bench.image, "sh", "-c", script)
        assert person.output("exec", *options, cwd="/") == "/\n"
    finally:
        marker.unlink()


def test_a_pid_namespace_with_an_init(person: Person, bench: Bench) -> None:
    script = "(sleep 0.1 & ) ; sleep 0.3; ps -o stat | grep -c Z; echo $$; exit 9"
    done = person.singrun("exec", "-p", bench.image, "sh", "-c", script)
    assert (done.returncode, done.stdout.split()[0]) == (9, b"0"), done
    assert int(done.stdout.split()[1]) < 20
    killed = person.singrun("exec", "-p", bench.image, "sh", "-c", "kill -9 $$")
    assert killed.returncode == -9
    assert person.singrun("exec", bench.image, "sh", "-c", "[ $$ -gt 20 ]").returncode == 0


def test_signals_and_death_pass_into_a_pid_namespace(person: Person, bench: Bench) -> None:
    script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done"
    for end, status in ((15, 42), (9, -9)):
        words = person.words(
            person.launcher, "exec", "-p", *person.options, bench.image, "sh", "-c", script
        )
        pipe = subprocess.PIPE
        with subprocess.Popen(words, stdout=pipe, env=person.environment(), cwd="/") as child:
            assert child.stdout
            assert child.stdout.readline() == b"ready\n"
            child.send_signal(end)
            assert child.wait(20 * PATIENCE) == status
            assert child.stdout.read() == b""  # everybody who held it has gone


def test_an_ipc_namespace(person: Person, bench: Bench) -> None:
    script = "readlink /proc/self/ns/ipc"
    host = os.readlink("/proc/self/ns/ipc")
    assert person.output("exec", bench.image, "sh", "-c", script).strip() == host
    assert person.output("exec", "-i", bench.image, "sh", "-c", script).strip() != host


def test_links_of_a_hostile_image_lead_only_into_the_image(
    person: Person, bench: Bench, data: Path
) -> None:
    tree, image = bench.directory / "hostile", bench.directory / "image-hostile.img"
    if not image.exists():
        bench.variant("hostile")
        for name, goal in {
            "etc/resolv.conf": f"../../../../../..{data}/file",
            "etc/hosts": "/proc/self/root/etc/hostname",
            "etc/localtime": "localtime",
            "etc/group": "/nowhere/group",
            "home": "/etc",
            "root": "/missing/root",
            "var/tmp": "../../../../tmp",
        }.items():
            path = tree / name
            subprocess.run(["rm", "-rf", path], check=True)
            path.symlink_to(goal)
        images.ext3(tree, image)
    before = {name: Path(name).read_bytes() for name in ("/etc/hostname", "/etc/passwd")}
    for place in (image, tree):
        script = "cat /etc/resolv.conf; pwd; id -un; id -gn; ls -d $HOME; ls -d /srv"
        done = person.singrun("exec", place, "sh", "-c", script)
        text = done.stdout.decode()
        assert text.startswith(Path("/etc/resolv.conf").read_text()), done
        assert f"{person.home}\n{person.name}\n" in text
        assert b"/srv: No such file" in done.stderr
    assert (data / "file").read_text() == "of the host\n"
    assert before == {name: Path(name).read_bytes() for name in before}
    assert os.readlink(tree / "home") == "/etc"
    assert not (tree / "missing").exists()


def test_an_image_that_lacks_every_mount_point(person: Person, bench: Bench) -> None:
    tree, image = bench.directory / "bare", bench.directory / "image-bare.img"
    if not image.exists():
        bench.variant("bare")
        for name in ("dev", "proc", "sys", "tmp", "var", "home", "root", "etc"):
            subprocess.run(["rm", "-rf", tree / name], check=True)
        images.ext3(tree, image)
    for place in (image, tree):
        script = "id -un; pwd; cat /etc/hosts; ls /dev/null /proc/self /sys /var/tmp >/dev/null"
        output = person.output("exec", place, "sh", "-c", script)
        assert output.startswith(f"{person.name}\n{person.home}\n{Path('/etc/hosts').read_text()}")
    assert not (tree / "etc").exists()


def test_a_fifo_for_passwd_does_not_hold_us(person: Person, bench: Bench) -> None:
    tree = bench.directory / "fifo"
    if not tree.exists():
        bench.variant("fifo")
        (tree / "etc/passwd").unlink()
        os.mkfifo(tree / "etc/passwd")
    assert person.output("exec", tree, "id", "-un").strip() == person.name


def test_images_of_2016_without_actions(person: Person, bench: Bench) -> None:
    tree, image = bench.directory / "older", bench.directory / "image-older.img"
    if not image.exists():
        bench.variant("older")
        subprocess.run(["rm", "-r", tree / ".singularity.d"], check=True)
        images.write_script(tree / ".exec", '#!/bin/sh\necho older; exec "$@"\n')
        images.write_script(tree / "singularity", '#!/bin/sh\necho runscript "$@"\n')
        images.ext3(tree, image, header=images.HEADER_2X)
    assert person.output("exec", image, "echo", "x") == "older\nx\n"
    assert person.output("run", image, "a", "b") == "runscript a b\n"
    assert person.output("shell", image, "-c", "echo $0") == "/bin/sh\n"


def test_a_tree_with_nothing_but_a_shell(person: Person, bench: Bench) -> None:
    tree = bench.directory / "shell-only"
    if not tree.exists():
        (tree / "bin").mkdir(parents=True)
        (tree / "bin/sh").write_bytes(Path("/bin/busybox").read_bytes())
        (tree / "bin/sh").chmod(0o755)
    assert person.output("exec", tree, "sh", "-c", "echo $SINGULARITY_NAME") == "shell-only\n"
    assert person.output("run", tree, "-c", "echo ran") == "ran\n"
    assert person.singrun("exec", tree, "no-such-command").returncode == 127
    assert person.singrun("exec", tree, "/bin").returncode == 126


def test_nothing_that_is_mounted_inside_reaches_the_host(person: Person, bench: Bench) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    script = "readlink /proc/self/ns/mnt; sleep 0.2"
    inside = person.output("exec", bench.image, "sh", "-c", script).strip()
    assert inside != os.readlink("/proc/self/ns/mnt")
    assert Path("/proc/self/mountinfo").read_text() == before


def test_bad_images(person: Person, bench: Bench) -> None:
    directory = bench.directory / "bad"
    if not directory.exists():
        directory.mkdir()
        whole = bench.image.read_bytes()
        (directory / "empty").touch()
        (directory / "garbage").write_bytes(b"\x7fELF" + bytes(range(256)) * 64)
        (directory / "truncated").write_bytes(whole[: len(whole) // 2])
        (directory / "head").write_bytes(whole[:1100])
        broken = bytearray(whole)
        broken[4096:65536] = b"\xff" * (65536 - 4096)
        (directory / "broken").write_bytes(broken)
        (directory / "directory").mkdir()
        os.mkfifo(directory / "fifo")
        bench.variant("bad/no-shell")
        (directory / "no-shell/bin/sh").unlink()
        images.ext3(directory / "no-shell", directory / "no-shell.img")
        (directory / "bad-shell").mkdir()
        bench.variant("bad/bad-shell/tree")
        (directory / "bad-shell/tree/bin/sh").unlink()
        (directory / "bad-shell/tree/bin/sh").write_bytes(b"\x7fELF garbage")
        (directory / "bad-shell/tree/bin/sh").chmod(0o755)
    for name, word in {
        "missing": b"No such file",
        "empty": b"empty",
        "garbage": b"No ext3 superblock",
        "truncated": b"truncated",
        "head": b"truncated",
        "broken": b"e2fsck -fn",
        "fifo": b"no regular file",
        "bad-shell/tree": b"/bin/sh",
    }.items():
        done = person.singrun("exec", directory / name, "true")
        assert (done.returncode, done.stdout) == (255, b""), (name, done)
        assert word in done.stderr, (name, done)
        assert b"Traceback" not in done.stderr
        assert all(line.startswith(b"singrun: ") for line in done.stderr.splitlines())
        assert len(done.stderr.splitlines()) > 1, done


def test_an_image_without_a_shell(person: Person, bench: Bench) -> None:
    """As of HTCondor's probe: exec starts the program itself, nothing else can be started."""
    tree = bench.directory / "shell-less"
    if not tree.exists():
        bench.variant("shell-less")
        (tree / "bin/sh").unlink()
        words = (
            "export PATH='/bin'\nA=1\nexport B='it'\"'\"'s' \nexport C=\"x y\"\nexport D=$(id)\n"
        )
        (tree / ".singularity.d/env/10-source.sh").write_text(words)
    environment = person.environment() | {"SINGULARITYENV_C": "mine"}
    output = person.output("exec", tree, "env", env=environment).splitlines()
    assert {"PATH=/bin", "A=1", "B=it's", "C=mine", "FROM_IMAGE=yes it is"} <= set(output)
    assert not [line for line in output if line.startswith("D=")]
    assert person.singrun("exec", tree, "/bin/false").returncode == 1
    done = person.singrun("exec", "-C", tree, "/no/such")
    assert (done.returncode, b"valid /bin/sh" in done.stderr) == (127, True), done
    for verb in ("run", "shell", "test"):
        done = person.singrun(verb, tree)
        assert done.returncode == 255
        assert b"Container does not have a valid /bin/sh" in done.stderr


def test_an_image_that_the_user_may_not_read(bench: Bench) -> None:
    path = bench.directory / "secret.img"
    path.write_bytes(b"x")
    path.chmod(0o600)
    done = bench.people["user"].singrun("exec", path, "true")
    assert done.returncode == 255
    assert b"Permission denied" in done.stderr
    assert b"read permission" in done.stderr


def test_a_host_that_runs_from_its_initramfs(person: Person, bench: Bench) -> None:
    """No pivot_root(2) leaves such a root; nor is it seen inside."""
    inside = "echo $FROM_IMAGE; pwd; ls /; ls /tmp/../../..; : >/new"
    words = person.words(person.launcher, "exec", *person.options, bench.image, "sh", "-c", inside)
    command: list[str | bytes] = [sys.executable, "-m", "tests.bench.initramfs", *words]
    done = subprocess.run(
        command, cwd=images.ROOT, env=person.environment(), capture_output=True, check=False
    )
    assert done.stdout.startswith(b"yes it is\n/\n"), done
    assert b"usr" not in done.stdout.split()  # the host's root has it, the image has not
    assert done.stdout.split().count(b"lost+found") == 2
    assert b"Read-only file system" in done.stderr


def test_usage_errors(bench: Bench) -> None:
    person = bench.people["root, loop"]
    for words, status, needle in (
        (("exce", "x"), 1, b"Did you mean exec?"),
        (("exec", "--bnd", "x"), 1, b"Did you mean --bind?"),
        (("exec", "-Z"), 1, b"-Z"),
        (("exec",), 1, b"No image"),
        (("exec", str(bench.image)), 1, b"No command"),
        ((), 1, b"No verb was given"),
        (("exec", "--contain=perhaps"), 1, b"takes no value"),
        (("exec", "-B"), 1, b"needs a value"),
        (
            ("exec", "--mount-with", "magic", "x", "true"),
            255,
            b"loop or fuse2fs or squashfuse or unpack",
        ),
    ):
        done = person.call(bench.launcher, *words)
        assert (done.returncode, done.stdout) == (status, b""), words
        assert needle in done.stderr, done
    help_text = person.call(bench.launcher, "--help")
    assert (help_text.returncode, help_text.stderr) == (0, b"")
    for verb in (b"exec", b"run", b"shell", b"test"):
        assert verb in help_text.stdout
    assert person.call(bench.launcher, "--version").stdout.startswith(b"singrun ")


def test_options_after_the_image_are_the_commands(person: Person, bench: Bench) -> None:
    assert person.output("exec", bench.image, "echo", "--pwd", "/etc", "-e") == "--pwd /etc -e\n"
    assert person.output("run", bench.image, "--help", "-B") == "run:<--help><-B>\n"
    assert person.singrun("test", bench.image).returncode == 5


def test_debug_tells_strategy_and_mounts(person: Person, bench: Bench) -> None:
    done = person.singrun("exec", "-d", bench.image, "true")
    assert (b"fuse2fs mounts" if person.options or person.uid else b"loop mounts") in done.stderr
    assert b"bind /dev on /dev" in done.stderr
