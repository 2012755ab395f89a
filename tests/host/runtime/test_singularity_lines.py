"""Every command of 2.x with every option, once well and once badly typed; and on busy images."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from singrun import options
from tests.bench import docker_images
from tests.bench import singrun_images as images
from tests.bench.host import PATIENCE, random_numbers, shared_directory
from tests.bench.singrun_images import ROOT

pytestmark = pytest.mark.root

# Options of the runtime that files of their own try: test_drivers.py, and those whose names begin
# with test_singrun_ and end with devices, rights, limits, binds or apps.
ELSEWHERE = {"nv", "rocm", "fabric", "device", "cdi-dirs", "app", "disable-cache"}
ELSEWHERE |= {"no-pid", "no-nv", "no-rocm", "contents", "no-https"}
ELSEWHERE |= {"add-caps", "drop-caps", "keep-privs", "no-privs", "security", "dns"}
ELSEWHERE |= {"net", "network", "network-args", "blkio-weight", "pids-limit", "cpu-shares", "cpus"}
ELSEWHERE |= {"cpuset-cpus", "cpuset-mems", "memory", "memory-reservation", "memory-swap"}
# After "singularity"; I is the image. What must be in the output stands behind.
GOOD = [
    ("exec -B /etc:/data I ls /data/passwd", "/data/passwd"),
    ("exec --bind=/etc:/data:ro I ls /data/passwd", "/data/passwd"),
    ("exec -B=/etc:/data I ls /data/passwd", "/data/passwd"),
    ("exec --bind '' I echo none", "none"),
    ("exec --mount src=/etc,dst=/data I ls /data/passwd", "/data/passwd"),
    ("exec --env PREPEND_PATH=/pre I sh -c 'echo $PATH'", "/pre:/"),
    ("exec --env APPEND_PATH=/post I sh -c 'echo $PATH'", "bin:/post"),
    ("exec -H home:/home/me I sh -c 'ls ~'", "mine"),
    ("exec --no-home I true", ""),
    ("exec --no-mount tmp,/etc/hosts I cat /etc/hosts", ""),
    ("exec -S /scratch I touch /scratch/x", ""),
    ("exec -W work -S /scratch I touch /scratch/x", ""),
    ("exec --pwd /etc I pwd", "/etc"),
    ("exec -w I touch /etc/x", ""),
    ("exec --writable-tmpfs I touch /new", ""),
    ("exec -o layer I touch /new", ""),
    ("exec -c I ls /dev/null", "/dev/null"),
    ("exec --containall I sh -c 'echo $$'", "2"),
    ("exec -e I env", "PATH"),
    ("exec --env A=b I env", "A=b"),
    ("exec --env-file vars I env", "FROM=file"),
    ("exec -p I sh -c 'echo $$'", "2"),
    ("exec -i I readlink /proc/self/ns/ipc", "ipc:"),
    ("exec --uts I hostname", ""),
    ("exec --hostname other I hostname", "other"),
    ("shell -s /bin/sh I -c 'echo $0'", "sh"),
    ("env --why PATH I", "PATH"),
    ("exec --mount-with loop I true", ""),
    ("exec --as-caller I id -u", "7"),
    ("exec --join I true", ""),
    ("exec --no-join I true", ""),
    ("exec --fetch I true", ""),
    ("exec --compat --no-umask --no-init --no-eval --userns --underlay --unsquash I true", ""),
    ("exec --eval I true", ""),
    ("exec --plan I true", "bind /tmp on /tmp"),
    ("exec -d I true", "DEBUG:"),
    ("-d exec I true", "DEBUG:"),
    ("run I a b", "run:<a><b>"),
    ("test I", "tested"),
    ("mount I place ls place/bin", "busybox"),
    ("mount -w --mount-with loop I place touch place/new", ""),
    ("start I name", ""),
    ("instances", "name"),
    ("exec instance://name true", ""),
    ("stop name", ""),
    ("instance start --pid-file pid I name", "started"),
    ("instance list", "name"),
    ("instance stats name", "MiB"),
    ("instance stop --all", "Stopping name"),
    ("instance run I name", "started"),
    ("instance.stop name", "Stopping name"),
    ("build built.img I", "Build complete"),
    ("create -s 8 new.img", "8MiB"),
    ("create --size 8 --force new.img", "8MiB"),
    ("-q create -F --size=16 new.img", ""),
    ("import new.img a.tar", ""),
    ("export -f out.tar new.img", ""),
    ("copy new.img -a vars /srv/", ""),
    ("expand -s 4 new.img", ""),
    ("expand --size 4 new.img", ""),
    ("shrink --free 1M new.img", ""),
    ("inspect --json new.img", "{"),
    ("--version", "singularity version"),
]
BAD = [
    ("exec -B /no/such I true", 255, "/no/such"),
    ("exec -B /etc:relative I true", 255, "relative"),
    ("exec -H relative I true", 255, "relative"),
    ("exec --no-mount tpm I true", 255, "tpm"),
    ("exec -S relative I true", 255, "relative"),
    ("exec -W /no/such -S /scratch I true", 255, "/no/such"),
    ("exec --pwd /no/such I true", 255, "/no/such"),
    ("exec -o /no/such I true", 255, "/no/such"),
    ("exec -w -o layer I true", 255, "--writable"),
    ("exec --env novalue I true", 255, "NAME=VALUE"),
    ("exec --env-file /no/such I true", 255, "/no/such"),
    ("exec --hostname " + "x" * 65 + " I true", 255, "64"),
    ("shell -s /no/such I", 255, "/no/such"),
    ("env --why a-b I", 255, "a-b"),
    ("exec --mount-with lop I true", 255, "lop"),
    ("exec --join -p I true", 255, "--join"),
    ("exec --contian I true", 1, "--contain"),
    ("exec -X I true", 1, "-X"),
    ("exec I", 1, "No command"),
    ("exec", 1, "No image"),
    ("exec /no/such.img true", 255, "/no/such.img"),
    ("mount I", 1, "No directory"),
    ("start I a/b", 255, "a/b"),
    ("stop nothing", 255, "nothing"),
    ("instances --jsn", 1, "--json"),
    ("create", 1, "IMAGE"),
    ("create -s none x.img", 1, "none"),
    ("create -s 0 x.img", 1, "0"),
    ("create I", 255, "exists"),
    ("create /no/such/x.img", 255, "/no/such"),
    ("bootstrap I /no/such.def", 255, "/no/such.def"),
    ("bootstrap I --nottest", 1, "--notest"),
    ("copy I", 1, "copy"),
    ("copy I --sparse-never vars /srv", 1, "--sparse-never"),
    ("import I /no/such.tar", 255, "/no/such.tar"),
    ("export -f /no/such/x.tar I", 255, "/no/such"),
    ("expand -s -3 I", 1, "-3"),
    ("expand /no/such.img", 255, "/no/such.img"),
    ("shrink --free many I", 1, "many"),
    ("inspect /no/such.img", 255, "/no/such.img"),
    ("exces I true", 1, "exec"),
]
CHANGES = {
    "expand": ("expand", "-s", "64", "IMAGE"),
    "shrink": ("shrink", "IMAGE"),
    "copy": ("copy", "IMAGE", "a.tar", "/srv/"),
    "import": ("import", "IMAGE", "a.tar"),
    "bootstrap": ("bootstrap", "IMAGE", "on-top.def"),
}


@pytest.fixture(scope="module")
def desk() -> Iterator[Path]:
    """A directory with an image and what the lines name, which --as-caller's caller may read."""
    with shared_directory() as directory:
        _furnish(directory)
        yield directory
        typed(directory, "stop name")  # should the walk have ended in between


def _furnish(directory: Path) -> None:
    tree = images.fill(directory / "tree")
    images.write_script(tree / ".singularity.d/test", "#!/bin/sh\necho tested\n")
    (tree / "srv").mkdir()
    images.ext3(tree, directory / "I", boot=images.LAUNCH_LINE)
    for name in ("home", "work", "layer", "place", "home/mine", "scratch"):
        (directory / name).mkdir()
    (directory / "vars").write_text("FROM=file\n")
    archive = docker_images.archive(
        docker_images.directory("srv"), docker_images.file("srv/blob", os.urandom(4 << 20))
    )
    (directory / "a.tar").write_bytes(archive)
    (directory / "on-top.def").write_text("%post\n    echo more > /more\n")


def typed(desk: Path, line: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    more = {"PATH": path, "SINGBUILD_TMPDIR": str(desk / "scratch")}
    more |= {"SUDO_UID": "7", "SUDO_GID": "7"}
    words = [str(ROOT / "bin/singularity"), *shlex.split(line)]
    return subprocess.run(
        words,
        cwd=desk,
        capture_output=True,
        text=True,
        env=os.environ | more,
        timeout=120 * PATIENCE,
    )


def test_every_option_well_typed(desk: Path) -> None:
    """One walk, as later lines use what earlier ones make."""
    for line, answer in GOOD:
        done = typed(desk, line)
        assert done.returncode == 0, (line, done)
        assert answer in done.stdout + done.stderr, (line, done)
    subprocess.run(["e2fsck", "-fn", desk / "I"], check=True, capture_output=True)
    subprocess.run(["e2fsck", "-fn", desk / "new.img"], check=True, capture_output=True)


def test_the_walk_leaves_out_no_option_of_the_runtime() -> None:
    words = {word for line, _ in GOOD for word in line.split()}
    names = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
    names |= {options.SHORT.get(word[1:], "") for word in words if len(word) == 2}
    assert {*options.FLAGS, *options.VALUES} - names == ELSEWHERE


@pytest.mark.parametrize(("line", "status", "answer"), BAD)
def test_badly_typed(desk: Path, line: str, status: int, answer: str) -> None:
    done = typed(desk, line)
    assert done.returncode == status, done
    assert answer in done.stderr
    assert not done.stdout or line.startswith("create")  # which says first what it will do


# An empty --bind binds nothing, as Apptainer has it.
@pytest.mark.parametrize("name", sorted({*options.FLAGS, *options.VALUES} - {"bind"}))
def test_an_option_that_lacks_its_value_or_has_one_too_many(desk: Path, name: str) -> None:
    value = "=x" if name in options.FLAGS else "="
    done = typed(desk, f"exec --{name}{value} I true")
    assert (done.returncode, done.stdout) == (1, ""), done
    assert f"--{name}" in done.stderr


def change(desk: Path, verb: str, image: Path) -> list[str]:
    words = [str(image) if word == "IMAGE" else word for word in CHANGES[verb]]
    return [sys.executable, "-m", "singbuild", *words]


def fresh(desk: Path) -> Path:
    image = desk / "changed.img"
    subprocess.run(["cp", "--sparse=always", desk / "I", image], check=True)
    return image


@pytest.mark.parametrize("verb", CHANGES)
def test_an_image_in_use_is_left_alone(desk: Path, verb: str) -> None:
    image = fresh(desk)
    before = image.read_bytes()
    reader = [images.PYTHON, "-IS", str(ROOT / "singrun/__main__.py"), "exec", str(image)]
    with subprocess.Popen([*reader, "sh", "-c", "echo; sleep 60"], stdout=-1) as running:
        assert running.stdout
        running.stdout.readline()
        done = subprocess.run(change(desk, verb, image), cwd=desk, capture_output=True, text=True)
        running.terminate()
    assert done.returncode == 8, done
    assert f"process {running.pid}" in done.stderr + done.stdout
    assert image.read_bytes() == before


@pytest.mark.parametrize("verb", CHANGES)
def test_a_change_that_is_killed_leaves_a_sound_image(desk: Path, verb: str) -> None:
    changes_killed(desk, verb, 1)


def changes_killed(desk: Path, verb: str, count: int) -> None:
    chance = random_numbers()
    for _ in range(count):
        image = fresh(desk)
        before = image.read_bytes()
        command = change(desk, verb, image)
        null = subprocess.DEVNULL
        with subprocess.Popen(command, cwd=desk, stdout=null, stderr=null) as process:
            time.sleep(chance.uniform(0.2, 1.0))
            process.send_signal(signal.SIGKILL)
        if image.read_bytes() != before:  # it was quicker
            subprocess.run(["e2fsck", "-fn", image], check=True, capture_output=True)
    done = subprocess.run(command, cwd=desk, capture_output=True, text=True)  # goes on, and sweeps
    assert done.returncode == 0, done
    subprocess.run(["e2fsck", "-fn", image], check=True, capture_output=True)
    assert not [path.name for path in desk.iterdir() if path.name.endswith(".part")]
