"""What is the caller's stays the caller's: places, variables, binds, names of any bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from singrun import syscalls
from tests.bench import singrun_images as images
from tests.bench.singrun_images import Bench, Person
from tests.bench.terminal import Terminal

pytestmark = pytest.mark.root


@pytest.fixture(params=["root, loop", "user"])
def person(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Person]:
    one = bench.people[request.param]
    before = dict(one.variables)
    yield one
    one.variables = before
    images.wait_for_daemons(str(bench.directory))


@pytest.fixture
def host_directory(person: Person) -> Iterator[Path]:
    """A directory of the host outside all that is shared by itself."""
    path = Path(f"/srv/singrun-{os.getpid()}-{person.uid}")
    path.mkdir(parents=True)
    os.chown(path, person.uid, person.gid)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize(
    ("name", "goal"),
    [("var/tmp", "/tmp"), ("var/tmp", "../tmp"), ("tmp", "/var/tmp"), ("var/tmp", "../tmp/deeper")],
)
def test_temporary_directories_that_are_one_place(
    person: Person, bench: Bench, name: str, goal: str
) -> None:
    tree = bench.variant(f"one-{person.uid}-{name}-{goal}".replace("/", "-"))
    (tree / name).rmdir()
    (tree / name).symlink_to(goal)
    here = Path(f"/tmp/singrun-{os.getpid()}-{person.uid}")
    here.mkdir()
    (here / "file").write_text("of /tmp")
    try:
        for options in ([], ["-B", str(here)]):
            for place in (str(here), "/"):
                output = person.output("exec", *options, tree, "cat", here / "file", cwd=place)
                assert output == "of /tmp"
        work = here / "work"
        work.mkdir()
        os.chown(work, person.uid, person.gid)
        for options in (["--contain"], ["--contain", "--workdir", str(work)]):
            done = person.singrun("exec", *options, tree, "ls", "-a", "/tmp")
            assert (done.returncode, done.stdout.decode().split()) == (0, [".", ".."]), done
    finally:
        shutil.rmtree(here)


def with_variables(bench: Bench, name: str, lines: str) -> Path:
    tree = bench.variant(name)
    (tree / ".singularity.d/env/10-source.sh").write_text(lines)
    return tree


def test_variables_that_tell_of_the_caller_are_the_callers(person: Person, bench: Bench) -> None:
    lines = "export HOME=/root\nexport USER=jovyan LOGNAME=jovyan\nSHELL=/bin/zsh; TERM=dumb\n"
    lines += "export PWD=/app JAVA_HOME=/java\n"
    image = with_variables(bench, f"home-{person.uid}", lines)
    script = "echo $HOME $USER $LOGNAME $SHELL $TERM $JAVA_HOME; env | grep ^PWD"
    mine = {"HOME": person.home, "USER": "me", "LOGNAME": "me too", "SHELL": "/bin/my", "TERM": "x"}
    own = person.environment() | mine
    output = person.output("exec", image, "sh", "-c", script, env=own)
    assert output == f"{person.home} me me too /bin/my x /java\nPWD={person.home}\n"
    bare = {"PATH": own["PATH"]}
    output = person.output("exec", image, "sh", "-c", "echo $HOME $USER", env=bare, cwd="/")
    assert output == f"{person.home} jovyan\n"  # HOME is known of every user
    other = ["--home", f"{bench.directory}:/home/other"]
    for more in ({}, {"SINGULARITYENV_HOME": "/elsewhere"}):
        output = person.output("exec", *other, image, "sh", "-c", "echo $HOME", env=own | more)
        assert output == "/home/other\n"
    output = person.output("env", "--why", "HOME", image, env=own)
    assert output.splitlines()[-1] == "set by: the caller"


def test_directories_before_and_behind_the_images_path(person: Person, bench: Bench) -> None:
    person.variables["SINGULARITYENV_PREPEND_PATH"] = "/my/first dir"
    person.variables["APPTAINERENV_APPEND_PATH"] = "/my/last"
    path = "/my/first dir:/usr/local/bin:/usr/bin:/bin:/my/last\n"
    assert person.output("exec", bench.tree, "sh", "-c", 'echo "$PATH"; env').startswith(path)
    assert "PREPEND_PATH" not in person.output("exec", bench.tree, "env")
    why = person.output("env", "--why", "PATH", bench.tree)
    assert "SINGULARITYENV_PREPEND_PATH: PATH=/my/first dir:/usr/local/bin" in why
    assert why.splitlines()[-1] == "set by: APPTAINERENV_APPEND_PATH"


def test_the_users_bind_wins_over_ours(person: Person, bench: Bench) -> None:
    for name in ("passwd", "group", "hosts"):
        mine = bench.directory / f"my-{name}"
        mine.write_text("root:x:0:0::/:/bin/sh\nmine\n")
        output = person.output(
            "exec", "-B", f"{mine}:/etc/{name}", bench.tree, "cat", f"/etc/{name}"
        )
        assert output == mine.read_text()
    output = person.output("exec", "--no-mount", "/etc/passwd", bench.tree, "cat", "/etc/passwd")
    assert output == (bench.tree / "etc/passwd").read_text()
    plan = person.output("exec", "--plan", "--no-mount", "/etc/passwd", bench.tree, "true")
    assert "/etc/passwd" not in plan


def test_the_current_directory_by_the_callers_name(
    person: Person, bench: Bench, host_directory: Path
) -> None:
    (host_directory / "real").mkdir()
    (host_directory / "real/file").write_text("data")
    link = host_directory / "link"
    link.symlink_to("real")
    person.variables["PWD"] = str(link)
    assert person.output("exec", bench.image, "cat", link / "file", cwd=link) == "data"
    assert person.output("exec", bench.image, "pwd", cwd=link) == f"{link}\n"
    person.variables["PWD"] = str(host_directory)  # a lie counts for nothing
    assert person.output("exec", bench.image, "pwd", cwd=link) == f"{host_directory}/real\n"


def test_a_current_directory_that_cannot_be_had_is_said(
    person: Person, bench: Bench, host_directory: Path
) -> None:
    closed = host_directory / "closed"
    closed.mkdir(0o700)  # root's
    script = f"cd {closed}; exec setpriv --reuid {person.uid} --regid {person.gid} --clear-groups"
    command = f"{script} {bench.launcher} exec {bench.image} pwd"
    if person.uid:
        done = subprocess.run(
            ["sh", "-c", command], env=person.environment(), capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, f"{person.home}\n")
        assert f"Cannot enter the current directory {closed}: Permission denied" in done.stderr
    missing = host_directory / "gone"
    missing.mkdir()
    words = f'cd {missing}; rmdir {missing}; exec "$@"'
    done_too = person.call("sh", "-c", words, "sh", bench.launcher, "exec", bench.image, "pwd")
    assert (done_too.returncode, done_too.stdout) == (0, f"{person.home}\n".encode())
    assert b"it has been removed; starting in" in done_too.stderr
    for option in ("--contain", "--no-mount=cwd"):
        assert person.output("exec", option, bench.image, "pwd", cwd=host_directory).endswith("\n")


def test_what_the_image_has_is_not_covered_unasked(
    person: Person, bench: Bench, host_directory: Path
) -> None:
    tree = bench.variant(f"own-{person.uid}")
    inside = tree / str(host_directory).lstrip("/")
    inside.mkdir(parents=True)
    (host_directory / "hosts").touch()
    assert person.output("exec", tree, "ls", host_directory, cwd=host_directory) == "hosts\n"
    (inside / "images").touch()
    done = person.singrun("exec", tree, "ls", host_directory, cwd=host_directory)
    assert (done.returncode, done.stdout) == (0, b"images\n")
    assert f"Not shared: {host_directory}".encode() in done.stderr
    bound = ["-B", str(host_directory)]
    assert b"hosts\n" in person.singrun("exec", *bound, tree, "ls", host_directory).stdout


def test_a_file_name_is_never_evaluated_by_a_prompt(person: Person, bench: Bench) -> None:
    directory = bench.directory / f"prompt-{person.uid}"
    directory.mkdir()
    os.chown(directory, person.uid, person.gid)
    image = directory / "a$(touch pwned)`touch pwned`\\w!.img"
    shutil.copy(bench.image, image)
    words = person.words(person.launcher, "shell", image)

    def become() -> None:
        os.chdir(directory)
        os.execvpe(words[0], words, person.environment())

    shell = Terminal(become)
    shell.expect(r"Singularity\.a\?\(touch pwned\)\?touch pwned\?\?w\?\.img> ")
    shell.type("exit\n")
    assert shell.status() == 0
    assert not (directory / "pwned").exists()


def test_names_that_are_not_utf8(person: Person, bench: Bench, host_directory: Path) -> None:
    odd = os.fsencode(host_directory) + b"/b\xffnd \xc3\xa9"
    os.makedirs(odd, exist_ok=True)
    output = person.call(bench.launcher, "exec", "-B", odd + b":/data", bench.tree, "pwd", cwd="/")
    assert (output.returncode, output.stderr) == (0, b"")
    for verb in (["stop"], ["exec"], ["nonsense"]):
        done = person.call(bench.launcher, *verb, b"\xff", b"\xfe")
        assert done.returncode != 0
        assert b"Traceback" not in done.stderr, done
    conf = bench.directory / "hostfs.conf"
    conf.write_text("mount hostfs = yes\n")
    syscalls.mount("none", os.fsdecode(odd), "tmpfs")
    try:
        Path(os.fsdecode(odd) + "/there").touch()
        person.variables["SINGRUN_CONFIG"] = str(conf)
        launch = person.call(
            bench.launcher, "exec", "--no-mount=tmp", bench.tree, "ls", odd, cwd="/"
        )
        assert (launch.returncode, launch.stdout) == (0, b"there\n"), launch
        assert person.call(bench.launcher, "doctor").returncode == 0
    finally:
        syscalls.umount2(os.fsdecode(odd), 0)
    os.rmdir(odd)


def test_xauthority_by_way_of_var_run(person: Person, bench: Bench) -> None:
    cookie = Path(f"/run/singrun-{os.getpid()}-{person.uid}")
    cookie.write_text("cookie")
    try:
        for directory in ("/run", "/var/run"):
            person.variables["XAUTHORITY"] = f"{directory}/{cookie.name}"
            output = person.output("exec", bench.tree, "sh", "-c", "cat $XAUTHORITY")
            assert output == "cookie"
    finally:
        cookie.unlink()


def test_a_relative_home(person: Person, bench: Bench) -> None:
    place = bench.directory / f"homes-{person.uid}/new"
    place.mkdir(parents=True)
    (place / "file").write_text("found")
    output = person.output(
        "exec", "--home", "new", bench.tree, "sh", "-c", "echo $HOME; cat ~/file", cwd=place.parent
    )
    assert output == f"{place}\nfound"


def test_a_path_is_joined_once_where_the_images_scripts_leave_it_alone(
    person: Person, bench: Bench
) -> None:
    tree = bench.directory / "without-path"
    if not tree.exists():
        for each in (bench.variant("without-path") / ".singularity.d/env").iterdir():
            each.write_text("export OF_IMAGE=1\n")
    script = "export SINGRUNENV_PREPEND_PATH='/a b' SINGRUNENV_APPEND_PATH=/z; exec \"$@\""
    words = ("exec", tree, "sh", "-c", "echo $PATH")
    done = person.call("sh", "-c", script, "sh", person.launcher, *words)
    path = done.stdout.decode().strip()
    assert path.startswith("/a b:/"), done
    assert path.endswith(":/z")
    assert path.split(":").count("/a b") == path.split(":").count("/z") == 1


def test_a_clean_environment_has_the_hosts_proxies(person: Person, bench: Bench) -> None:
    script = 'export https_proxy=http://p:1 NO_PROXY=here OTHER=1; exec "$@"'
    words = ("exec", "--cleanenv", bench.tree, "sh", "-c", "echo $https_proxy $NO_PROXY $OTHER")
    done = person.call("sh", "-c", script, "sh", person.launcher, *words)
    assert done.stdout == b"http://p:1 here\n", done
