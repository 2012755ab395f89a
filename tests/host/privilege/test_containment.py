"""What a section of a hostile image finds of the host: nothing, whoever builds and how."""

from __future__ import annotations

import contextlib
import marshal
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from singbuild.privilege import container_init
from singbuild.testing.engine import Recorder
from singbuild.tree import chroot
from singbuild.tree.rootfs import Rootfs
from singrun import syscalls
from tests.bench.builds import SINGBUILD, User
from tests.bench.host import LEFT_OPEN, shared_directory

pytestmark = pytest.mark.root

VARIABLE = "a-password-of-the-caller"
CONTENT = "a-file-of-the-caller"
CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
# Each line that is printed is a way out; a shell goes on after each.
ATTACK = """\
    set +e +x
    for process in /proc/[0-9]*; do
        grep -q {variable} $process/environ && echo OUT: variables of $process
        grep -q {content} $process/root{victim} && echo OUT: $process/root
        grep -q {content} $process/cwd/victim && echo OUT: $process/cwd
        for fd in $process/fd/*; do
            case "$(readlink $fd)" in
                */singbuild-scratch-*|*.part|*.log|*{place}*) echo OUT: $fd: $(readlink $fd) ;;
            esac
        done
        chroot $process/root /bin/sh -c 'grep -q {content} {victim}' && echo OUT: chroot $process
        test $process/root/.singbuild.script -ef /.singbuild.script || echo root $process
    done
    grep -q {content} {victim} && echo OUT: the file itself
    grep -q {content} ../../../../../../..{victim} && echo OUT: dots
    for number in 2 12 13 16 17 19 21 22 25 29 30 32 33 34 37 38 39; do
        mask=$(sed -n 's/CapEff:.//p' /proc/self/status)
        test $(( 0x$mask >> number & 1 )) = 0 || echo OUT: capability $number
    done
    for file in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sysrq-trigger; do
        (echo h > $file) && echo OUT: $file is written
    done
    mount -o remount,rw /proc/sys && echo OUT: remounted
    mount -t proc proc /root && echo OUT: mounted
    mknod /disk b {disk}
    test "$(head -c 1 /disk | wc -c)" = 0 || echo OUT: a disk of the host
    for made in /made /dev/made /dev/shm/made; do  # as zero, which no cgroup of the host refuses
        mknod $made c 1 5
        test "$(head -c 1 $made | wc -c)" = 0 || echo OUT: the device $made
        rm -f $made
    done
    chmod 600 /dev/null && echo OUT: the mode of /dev/null
    ls /dev | grep -E '^(sd|vd|loop|kmsg|mem)' && echo OUT: devices
    echo done
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with shared_directory() as directory:
        (directory / "victim").write_text(CONTENT)
        yield directory


def recipe(place: Path) -> str:
    number = os.stat("/").st_dev
    disk = f"{os.major(number)} {os.minor(number)}"
    about = {"variable": VARIABLE, "content": CONTENT, "victim": place / "victim"}
    attack = ATTACK.format(place=place, disk=disk, **about)
    return f"Bootstrap: busybox\n%post\n{attack}%test\n{attack}"


def ways_out(output: str) -> list[str]:
    assert output.count("\n    done\n") == 2, output
    return [line for line in output.splitlines() if line.strip().startswith("OUT: ")]


def test_root_s_sections_find_nothing_of_the_host(place: Path) -> None:
    env = os.environ | {"SITE_PASSWORD": VARIABLE}
    # As root of a container or by pam_cap(8), who may hand on what the bounding set lacks.
    handed_on = ["setpriv", "--inh-caps=+sys_admin,+sys_ptrace"]
    argv = [*handed_on, *SINGBUILD, "--no-cache", "-", "a.img"]
    done = subprocess.run(
        argv, input=recipe(place), cwd=place, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert ways_out(done.stdout) == []


@pytest.mark.parametrize("mode", ["subuid", "one-id"])
def test_a_user_s_sections_find_nothing_of_the_caller(user: User, mode: str, place: Path) -> None:
    user.env["SITE_PASSWORD"] = VARIABLE
    os.chown(place / "victim", user.uid, user.gid)
    process = user.start("--no-cache", "--privilege", mode, "-", "a.img")
    out, err = process.communicate(recipe(place))
    assert process.returncode == 0, err
    assert ways_out(out) == []


def test_a_python_with_libraries_of_its_own_starts(place: Path) -> None:
    python = place / "python"
    loads = f'test "$LD_LIBRARY_PATH" = {place} || exit 127'  # as ld.so(8) would
    python.write_text(f'#!/bin/sh\n{loads}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    main = "from singbuild.cli.main import main; main()"
    start = f"import sys; sys.executable = {str(python)!r}\n{main}"
    argv = [sys.executable, "-c", start, "--no-cache", "-", "a.img"]
    env = os.environ | {"LD_LIBRARY_PATH": str(place)}
    text = "Bootstrap: busybox\n%post\n    env\n"
    done = subprocess.run(argv, input=text, cwd=place, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "LD_LIBRARY_PATH" not in done.stdout


def test_what_the_caller_left_open_is_closed(place: Path) -> None:
    victim, job = os.open(place / "victim", os.O_RDONLY), os.memfd_create("job", 0)
    host = {"directory": "/", "writable": [], "furnished": False, "plain": False}
    about = {"root": str(place), "env": dict(os.environ), "mounts": True, "files": {}, "host": host}
    about |= {"argv": ["ls", "-l", "/proc/self/fd"], "hostname": "", "user": None, "offline": False}
    os.write(job, marshal.dumps(about))
    os.lseek(job, 0, os.SEEK_SET)
    argv = [sys.executable, "-IS", container_init.__file__, str(job)]
    try:
        done = subprocess.run(argv, pass_fds=(job, victim), capture_output=True, text=True)
    finally:
        os.close(job)
        os.close(victim)
    assert done.returncode == 0, done.stderr
    assert "0 -> " in done.stdout
    assert "victim" not in done.stdout


def test_descriptors_of_the_caller_s_that_are_many_hinder_no_build(place: Path) -> None:
    argv = [sys.executable, "-c", LEFT_OPEN, *SINGBUILD, "--no-cache", "-", "a.img"]
    text = "Bootstrap: busybox\n%post\n    true\n"
    done = subprocess.run(argv, input=text, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_sections_take_signals_whatever_the_caller_ignores_or_blocks(place: Path) -> None:
    """Else nohup(1), or a Python that blocks signals, would let timeout(1) end nothing."""
    text = "Bootstrap: busybox\n%post\n    grep -E 'Sig(Blk|Ign)' /proc/self/status\n"
    unusual = ["env", "--ignore-signal", "--block-signal", *SINGBUILD]
    argv = [*unusual, "--no-cache", "-", "a.img"]
    done = subprocess.run(argv, input=text, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    masks = re.findall("Sig(Blk|Ign):\t([0-9a-f]+)", done.stdout)
    of_libc = 0b11 << 31  # signals 32 and 33, which glibc lets nobody set: signal(7)
    assert [(name, int(mask, 16) & ~of_libc) for name, mask in masks] == [("Blk", 0), ("Ign", 0)]


def test_no_process_outlives_its_section(place: Path) -> None:
    text = (
        "Bootstrap: busybox\n%post\n    (sleep 1000 &) ; setsid sleep 1000 &\n%test\n"
        "    ps | grep -v grep | grep sleep && exit 1\n    true\n"
    )
    argv = [*SINGBUILD, "--no-cache", "-", "a.img"]
    done = subprocess.run(argv, input=text, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_section_reads_a_secret_s_variable(place: Path) -> None:
    text = "Bootstrap: busybox\n%setup\n"
    argv = [*SINGBUILD, "--json", "--no-cache", "--secret=id=token,env=TOKEN", "-", "a.img"]
    log = place / "log"
    text += f"    tr a-z b-za < /proc/$PPID/environ >> {log}\n    env | tr a-z b-za >> {log}\n"
    subprocess.run(
        argv,
        input=text,
        text=True,
        cwd=place,
        env=os.environ | {"TOKEN": "secretvalue"},
        check=True,
    )
    assert "PATH" in log.read_text()
    assert "tfdsfuwbmvf" not in log.read_text()


DEPUTY = """\
Bootstrap: busybox
%post
    set +e
    for number in 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
        mknod /proc/self/fd/$number{place}/made c 1 3 && echo OUT: made
        chown 5:5 /proc/self/fd/$number{place}/victim && echo OUT: chowned
    done
    mknod /proc/self/root{place}/made c 1 3 && echo OUT: made
    mknod /proc/self/cwd/made c 1 3 && echo OUT: made
    chown 5:5 /proc/self/cwd && echo OUT: chowned
    chown 5:5 /proc/uptime && echo OUT: chowned procfs
    touch /there && chown 5:5 /there || echo OUT: no chown
    echo done
"""


def test_the_recorder_opens_nothing_of_its_own(user: User, place: Path) -> None:
    os.chown(place, user.uid, user.gid)
    victim = place / "victim"
    os.chown(victim, user.uid, user.gid)
    victim.chmod(0o4755)
    text = DEPUTY.format(place=place)
    process = user.start("--no-cache", "--privilege", "one-id", "-", "a.img")
    out, err = process.communicate(text)
    assert process.returncode == 0, err
    assert [line for line in out.splitlines() if line.strip().startswith("OUT: ")] == []
    assert "\n    done\n" in out
    assert not (place / "made").exists()
    assert victim.stat().st_mode & 0o7777 == 0o4755


@contextlib.contextmanager
def service(address: str) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        yield


@pytest.mark.parametrize("where", ["/run/it", "/tmp/it", "/opt", "/tmp/with blank"])
def test_a_host_program_reaches_no_service_of_the_host_by_its_socket(
    where: str, tmp_path: Path
) -> None:
    """A read-only mount keeps nobody from connecting: unix(7). PATH is nothing it needs."""
    path, tree = f"{where}-{os.getpid()}/socket", tmp_path / "tree"
    tree.mkdir()
    Path(path).parent.mkdir()
    try:
        with service(path):
            argv = [sys.executable, "-c", CONNECT, path]
            assert subprocess.run(argv).returncode == 0
            done = Rootfs(tree, Recorder()).host(argv, env={}, inherit=False, check=False)
    finally:
        shutil.rmtree(Path(path).parent)
    assert done.status == 1
    assert "ConnectionRefusedError" in "".join(done.tail)


@contextlib.contextmanager
def programs_in(tree: Path) -> Iterator[None]:
    """Show the host's /usr in a tree."""
    (tree / "usr").mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (tree / name).symlink_to(f"usr/{name}")
    syscalls.mount("/usr", str(tree / "usr"), "", syscalls.MS_BIND, "")
    try:
        yield
    finally:
        syscalls.umount2(str(tree / "usr"), syscalls.MNT_DETACH)


def has_scopes() -> bool:
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    try:
        syscalls.scope_abstract_sockets()
        os._exit(0)
    except OSError:
        os._exit(1)


@pytest.mark.skipif(not has_scopes(), reason="this kernel has no scopes: Landlock, Linux 6.12")
@pytest.mark.parametrize("is_of_host", [True, False])
def test_no_program_reaches_an_abstract_socket_of_the_host(
    is_of_host: bool, tmp_path: Path
) -> None:
    """But the sockets of its own are there."""
    name, tree = f"\0singbuild-test-{os.getpid()}", tmp_path / "tree"
    own = "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1] + 'own'); s.listen()\n"
    own += "socket.socket(socket.AF_UNIX).connect(sys.argv[1] + 'own')\n"
    program = "import socket, sys; sys.argv[1] = chr(0) + sys.argv[1]\n" + own + CONNECT
    argv = [os.path.realpath(sys.executable), "-c", program, name[1:]]
    with service(name), programs_in(tree):
        assert subprocess.run(argv).returncode == 0
        if is_of_host:
            done = Rootfs(tree, Recorder()).host(argv, check=False)
        else:
            done = chroot.call(tree, argv)
    output = "".join(done.tail)
    assert (done.status, "PermissionError" in output, "'own'" in output) == (1, True, False), output


def test_a_host_program_is_found_without_a_path_variable(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    done = Rootfs(tmp_path / "tree", Recorder()).host(["true"], env={}, inherit=False)
    assert done.status == 0


def test_a_host_program_works_on_a_tree_below_dev() -> None:
    """Memory for scratch and cache is often /dev/shm, which the container's own /dev hides."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        place = Path(name)
        (place / "tree").mkdir()
        (place / "more").mkdir()
        (place / "cache").mkdir()
        (place / "cache/package").write_text("package")
        (place / "link").symlink_to(place / "cache/package")
        rootfs = Rootfs(place / "tree", Recorder())
        program = (
            'cat "$0/../link" && touch here "$0/there" "$0/../beside" "$0/../cache/beside"; echo'
        )
        with rootfs.furnished():
            more = place / "more"
            argv = ["sh", "-c", program, str(more)]
            done = rootfs.host(argv, directory=rootfs.root, writable=[more])
        assert (done.status, done.tail[0].partition(":")[0]) == (0, "packagetouch")
        assert {path.name for path in place.rglob("*")} >= {"here", "there"}
        assert not [*place.rglob("beside")]
