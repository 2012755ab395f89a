"""singrun as root by loop and by fuse2fs, and as an ordinary user: inside is as outside."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.host import PATIENCE
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root

NEWLY = b"spaces and\nnewline \xff\xfe"  # no UTF-8


@pytest.fixture(scope="module")
def shared(bench: Bench) -> Path:
    return bench.directory


@pytest.fixture(scope="module")
def tree(bench: Bench) -> Path:
    return bench.tree


@pytest.fixture(scope="module")
def image(bench: Bench) -> Path:
    return bench.image


@pytest.fixture(params=["root, loop", "root, fuse2fs", "user", "user, unpack"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    yield bench.people[request.param]
    images.wait_for_daemons(bench.directory)


@pytest.fixture
def ordinary(bench: Bench) -> Iterator[Person]:
    yield bench.people["user"]
    images.wait_for_daemons(bench.directory)


def test_a_program_finds_its_own_threads(person: Person, image: Path) -> None:
    """The root is put together in this directory of /proc, which nobody shall see inside."""
    script = "cd /proc/$$/task; echo *; grep -c /task /proc/$$/mountinfo; echo $$"
    answer = person.singrun("exec", image, "sh", "-c", script).stdout.split()
    assert answer == [answer[2], b"0", answer[2]]


@pytest.mark.parametrize("kind", ["ours", "bare", "header of 2.x", "directory"])
def test_every_kind_of_image_runs_and_stays_as_it_is(
    person: Person, shared: Path, tree: Path, image: Path, kind: str
) -> None:
    path = {"ours": image, "directory": tree}.get(kind, shared / f"image-{kind}")
    if not path.exists():
        header = images.HEADER_2X if kind == "header of 2.x" else b""
        images.ext3(tree, path, header=header)
    before = hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b""
    script = "echo $FROM_IMAGE $SINGULARITY_NAME; cat /home/other/x 2>/dev/null; : >/bin/new"
    done = person.singrun("exec", path, "sh", "-c", script)
    assert done.stdout.decode() == f"yes it is {path.name}\n"
    assert b"Read-only file system" in done.stderr
    assert (hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"") == before


def test_the_image_executes_itself(person: Person, image: Path) -> None:
    environment = person.environment()
    environment["PATH"] = f"{person.launcher.parent}:{environment['PATH']}"
    done = person.call(image, "a b", "", "-x", env=environment)
    assert (done.returncode, done.stdout) == (0, b"run:<a b><><-x>\n"), done


def test_a_script_on_standard_input(person: Person, image: Path) -> None:
    assert person.output("exec", image, "sh", input=b"echo from stdin; exit 0\n") == "from stdin\n"
    assert person.output("shell", image, input=b"echo shell $0\n") == "shell /bin/sh\n"


def test_the_user_inside_is_the_user_outside(person: Person, image: Path) -> None:
    for option in ("-u", "-g", "-un", "-gn"):
        outside = person.call("id", option).stdout.decode()
        assert person.output("exec", image, "id", option) == outside
    entry = person.output("exec", image, "sh", "-c", "cat /etc/passwd; cat /etc/group")
    assert entry.splitlines()[0].startswith(f"{person.name}:x:{person.uid}:{person.gid}:")
    assert "www:x:33:33" in entry


def test_every_exit_status_comes_out(bench: Bench, image: Path) -> None:
    person = bench.people["root, loop"]
    for first in range(0, 256, 8):
        started = {
            status: subprocess.Popen(
                [person.launcher, "exec", image, "sh", "-c", f"exit {status}"],
                env=person.environment(),
            )
            for status in range(first, first + 8)
        }
        assert [child.wait(60 * PATIENCE) for child in started.values()] == list(started)


@pytest.mark.parametrize("status", [0, 1, 126, 127, 128, 255])
def test_exit_statuses_of_the_others(person: Person, image: Path, status: int) -> None:
    assert person.singrun("exec", image, "sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("number", [6, 9, 13, 15])
def test_death_by_a_signal_is_death_by_that_signal(
    person: Person, image: Path, number: int
) -> None:
    done = person.singrun("exec", image, "sh", "-c", f"kill -{number} $$")
    assert done.returncode == -number


def test_a_signal_from_outside_reaches_the_program_itself(person: Person, image: Path) -> None:
    script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done"
    words = person.words(person.launcher, "exec", *person.options, image, "sh", "-c", script)
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, env=person.environment(), cwd="/"
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == b"ready\n"
        child.terminate()
        assert child.wait(20 * PATIENCE) == 42


def test_a_command_that_is_missing_or_no_program(person: Person, image: Path) -> None:
    assert person.singrun("exec", image, "no-such-command").returncode == 127
    assert person.singrun("exec", image, "/etc/passwd").returncode == 126


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&-", "0<&- 1>&- 2>&-"])
def test_closed_descriptors_stay_closed(
    person: Person, image: Path, closed: str, tmp_path: Path
) -> None:
    numbers = [n for n in (0, 1, 2) if f"{n}<&-" in closed or f"{n}>&-" in closed]
    inside = " || ".join(f"[ -e /proc/$$/fd/{n} ]" for n in numbers)
    command = f'"$0" exec {" ".join(person.options)} "$1" sh -c "$2" {closed}; exit $?'
    script = f"if {inside}; then exit 1; else exit 7; fi"
    done = person.call("sh", "-c", command, person.launcher, image, script)
    assert done.returncode == 7, done


def test_other_descriptors_are_handed_on_and_none_of_ours(person: Person, image: Path) -> None:
    script = 'read -r line <&7; echo "$line"; ls /proc/$$/fd; exit'
    command = f'"$0" exec {" ".join(person.options)} "$1" sh -c "$2" 7</etc/debian_version'
    done = person.call("sh", "-c", command, person.launcher, image, script)
    version, *numbers = done.stdout.decode().splitlines()
    assert version == Path("/etc/debian_version").read_text().strip()
    assert set(numbers) == {"0", "1", "2", "7"}


def test_nobody_holds_the_callers_pipes_after_the_program(person: Person, image: Path) -> None:
    """A daemon with our descriptors would keep the reader waiting after the program has ended."""
    command = f'"$0" exec {" ".join(person.options)} "$1" true 2>&1 8>&1 | cat'
    start = time.monotonic()
    done = person.call("sh", "-c", command, person.launcher, image)
    assert (done.returncode, done.stdout) == (0, b"")
    assert time.monotonic() - start < 10 * PATIENCE


def test_a_hundred_megabytes_pass_unharmed(person: Person, image: Path) -> None:
    data = os.urandom(1 << 20) * 100
    output = person.output("exec", image, "sha256sum", input=data)
    assert output.split()[0] == hashlib.sha256(data).hexdigest()


def test_ten_thousand_arguments(person: Person, image: Path) -> None:
    words = [f"argument {n}" for n in range(10_000)]
    output = person.output("exec", image, "sh", "-c", 'echo $#; echo "${10000}"', "sh", *words)
    assert output == "10000\nargument 9999\n"


def test_names_of_any_bytes(person: Person, shared: Path, image: Path) -> None:
    odd = os.fsencode(shared) + b"/image, \\ " + NEWLY
    os.link(image, odd)
    try:
        script = 'printf "%s|%s" "$1" "$SINGULARITY_NAME"'
        done = person.singrun(
            "exec", odd, "sh", "-c", script, "sh", NEWLY, env=person.environment()
        )
        assert done.stdout == NEWLY + b"|" + os.path.basename(odd), done
    finally:
        os.unlink(odd)


def test_a_broken_pipe_ends_the_program(person: Person, image: Path) -> None:
    command = f'("$0" exec {" ".join(person.options)} "$1" yes; echo $? >&2) | head -1'
    done = person.call("sh", "-c", command, person.launcher, image)
    assert (done.stdout, done.stderr) == (b"y\n", b"141\n")


def test_umask_and_limits_are_the_callers(person: Person, image: Path) -> None:
    limits = (300, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    done = person.singrun(
        "exec",
        image,
        *("sh", "-c", "umask; ulimit -n; touch /tmp/$$; stat -c %a /tmp/$$; exec rm /tmp/$$"),
        umask=0o027,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits),
    )
    assert done.stdout.split()[:3] == [b"0027", b"300", b"640"], done


def test_the_environment_is_the_callers_and_the_images(person: Person, image: Path) -> None:
    settings = person.environment() | {"ODD": "a\nb = c", "EMPTY": "", "LANG": "C"}
    done = person.singrun("exec", image, "cat", "/proc/self/environ", env=settings)
    inside = dict(word.split("=", 1) for word in done.stdout.decode().split("\0") if word)
    own = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "FROM_IMAGE": "yes it is",
        "SINGULARITY_CONTAINER": str(image),
        "SINGULARITY_NAME": image.name,
        "SINGULARITY_BIND": "",
        "SINGULARITY_COMMAND": "exec",
        "SINGULARITY_ENVIRONMENT": "/.singularity.d/env/91-environment.sh",
        "PYTHONNOUSERSITE": "1",
        "R_LIBS_USER": "/nonexistent",
        "PWD": person.home,
        "SHLVL": "1",
    }
    own |= {n.replace("SINGULARITY", "APPTAINER"): own[n] for n in own if n.startswith("SING")}
    assert {name: inside.get(name) for name in own} | {"SHLVL": "1"} == own
    assert {n: v for n, v in inside.items() if n not in own} == {
        n: v for n, v in settings.items() if n not in own
    }


def test_a_clean_environment(person: Person, image: Path) -> None:
    settings = person.environment() | {"SECRET": "x", "LC_ALL": "C", "TERM": "vt100"}
    output = person.output("exec", "-e", image, "env", env=settings)
    assert "SECRET" not in output
    assert {"LC_ALL=C", "TERM=vt100", f"HOME={person.home}"} <= set(output.splitlines())


def test_home_is_shared_although_the_image_has_none(ordinary: Person, image: Path) -> None:
    output = ordinary.output(
        "exec", image, "sh", "-c", "pwd; echo $HOME; echo hello >mine; ls /home"
    )
    assert output.splitlines() == [ordinary.home, ordinary.home, "other", ordinary.name]
    assert (Path(ordinary.home) / "mine").read_text() == "hello\n"
    assert (Path(ordinary.home) / "mine").owner() == ordinary.name


def test_home_by_a_path_that_is_a_link(ordinary: Person, image: Path, shared: Path) -> None:
    link = shared / "linked-home"
    link.symlink_to(ordinary.home)
    environment = ordinary.environment() | {"HOME": str(link), "PWD": str(link)}
    script = "cd; pwd; touch by-link; ls /home"
    output = ordinary.output("exec", image, "sh", "-c", script, env=environment, cwd=link)
    assert output.splitlines()[0] == str(link)
    assert (Path(ordinary.home) / "by-link").exists()
    link.unlink()


def test_the_current_directory_is_kept_where_the_image_has_none(
    person: Person, image: Path, shared: Path
) -> None:
    place = Path("/srv") / f"singrun-{os.getpid()}" / "deep"
    place.mkdir(parents=True)
    place.chmod(0o777)
    try:
        script = 'pwd; echo "$PWD"; echo data >result; ls /'
        environment = person.environment() | {"PWD": "/nonsense"}
        output = person.output("exec", image, "sh", "-c", script, cwd=place, env=environment)
        assert output.splitlines()[:2] == [str(place), str(place)]
        assert {"bin", "etc", "home", "srv"} <= set(output.splitlines())
        assert (place / "result").read_text() == "data\n"
        (place / "result").unlink()
    finally:
        place.rmdir()
        place.parent.rmdir()


def test_a_system_directory_of_the_host_does_not_cover_the_images(
    person: Person, image: Path
) -> None:
    assert person.output("exec", image, "sh", "-c", "pwd; ls /usr", cwd="/usr/share") == (
        "/usr/share\n" + person.output("exec", image, "ls", "/usr", cwd="/usr/share")
    )
    assert "busybox" in person.output("exec", image, "ls", "/bin", cwd="/bin")


def test_a_current_directory_that_is_gone(person: Person, image: Path) -> None:
    command = (
        f'mkdir "$2" && cd "$2" && rmdir "$2" && exec "$0" exec {" ".join(person.options)} "$1" pwd'
    )
    missing = f"/tmp/singrun-gone-{os.getpid()}"
    done = person.call("sh", "-c", command, person.launcher, image, missing)
    assert done.stdout.decode().strip() == person.home, done


def test_pwd_chooses_a_directory_or_fails(person: Person, image: Path) -> None:
    assert person.output("exec", "--pwd", "/etc", image, "pwd") == "/etc\n"
    done = person.singrun("exec", "--pwd=/nowhere", image, "pwd")
    assert done.returncode == 255
    assert b"/nowhere" in done.stderr


def test_the_hosts_network_files_and_directories_are_shared(person: Person, image: Path) -> None:
    for name in ("/etc/hosts", "/etc/resolv.conf"):
        assert person.output("exec", image, "cat", name) == Path(name).read_text()
    assert person.output(
        "exec", image, "stat", "-c", "%i", "/tmp", "/dev", "/proc", "/sys"
    ).split() == [str(os.stat(name).st_ino) for name in ("/tmp", "/dev", "/proc", "/sys")]


def test_setuid_programs_are_dead(person: Person, shared: Path) -> None:
    tree = shared / "setuid"
    if not tree.exists():
        images.fill(tree)
        _copy_dynamic(Path("/bin/cat"), tree)
        for name in ("own", "other"):
            path = tree / "bin" / name
            path.write_bytes((tree / "bin/host-cat").read_bytes())
            os.chown(path, 0 if name == "own" else 12345, 0)
            path.chmod(0o6755)
        images.ext3(tree, shared / "image-setuid.img")
    expected = f"{person.uid}\t{person.uid}\t{person.uid}\t{person.uid}"
    for name in ("own", "other"):
        status = person.output("exec", shared / "image-setuid.img", name, "/proc/self/status")
        assert f"Uid:\t{expected}\n" in status
        assert "NoNewPrivs:\t1\n" in status
        if person.uid:
            assert "CapEff:\t0000000000000000\n" in status


def test_file_capabilities_are_dead(person: Person, shared: Path) -> None:
    """cap_net_raw and all others, permitted and effective; <linux/capability.h>, version 2."""
    tree = shared / "capable"
    if not tree.exists():
        images.fill(tree)
        images.copy_program(Path("/bin/cat"), tree, "bin/capable")
        everything = bytes.fromhex("01000002 ffffffff 00000000 ffffffff 00000000")
        os.setxattr(tree / "bin/capable", "security.capability", everything)
        images.ext3(tree, shared / "image-capable.img")
    for place in (shared / "image-capable.img", tree):
        for line in ("CapPrm", "CapEff"):
            had = _capabilities(person.call("cat", "/proc/self/status").stdout.decode(), line)
            has = _capabilities(person.output("exec", place, "capable", "/proc/self/status"), line)
            assert has & ~had == 0


def _capabilities(status: str, name: str) -> int:
    return next(int(row.split()[1], 16) for row in status.splitlines() if row.startswith(name))


def _copy_dynamic(program: Path, tree: Path) -> None:
    """Copy a program and its libraries; busybox gives setuid rights up by itself."""
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    (tree / "bin/host-cat").write_bytes(program.read_bytes())
    for word in listing.split():
        if word.startswith("/"):
            target = tree / word.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(Path(word).read_bytes())
            target.chmod(0o755)


def test_a_huge_environment(person: Person, image: Path) -> None:
    settings = person.environment() | {f"HUGE_{n}": "x" * 1000 for n in range(1500)}
    script = 'echo "${#HUGE_1499}"; tr "\\0" "\\n" </proc/$$/environ | grep -c ^HUGE_'
    assert person.output("exec", image, "sh", "-c", script, env=settings) == "1000\n1500\n"


def test_a_dirty_journal_is_not_replayed(person: Person, shared: Path, tree: Path) -> None:
    path = shared / "image-dirty.img"
    images.ext3(tree, path)
    command = ["debugfs", "-w", "-R", "feature needs_recovery"]
    subprocess.run([*command, path], check=True, capture_output=True)
    before = path.read_bytes()
    done = person.singrun("exec", path, "echo", "hi")
    assert (done.returncode, done.stdout) == (0, b"hi\n"), done
    assert b"e2fsck" in done.stderr
    assert path.read_bytes() == before
