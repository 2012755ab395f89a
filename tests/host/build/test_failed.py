"""A build whose section failed: a shell in it on the user's terminal, or its tree kept to go on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.builds import SINGBUILD, Build, Builder, User
from tests.bench.terminal import Terminal
from tests.host.build.test_build import cat

pytestmark = pytest.mark.root

VALUE = "sesame-open-the-door"


def terminal_of(builder: Builder, *words: str | Path, cwd: Path) -> Terminal:
    """A build on a terminal."""
    builder.adopt(cwd)
    argv = builder.words(*words, cwd=cwd, on_terminal=True)

    def become() -> None:
        os.chdir(cwd)
        os.execvp(argv[0], argv)

    return Terminal(become)


def users_terminal(user: User, *words: str | Path, before: tuple[str, ...] = ()) -> Terminal:
    """A user's build on a terminal."""

    def become() -> None:
        os.chdir(user.directory)
        os.setgroups([user.gid])
        os.setgid(user.gid)
        os.setuid(user.uid)
        argv = [*before, *SINGBUILD, *map(str, words)]
        os.execvpe(argv[0], argv, user.env)

    return Terminal(become)


def failing(section: str) -> str:
    return f"Bootstrap: busybox\n%{section}\n    echo 42 > /tmp/answer\n    false\n"


@pytest.mark.parametrize("section", ["post", "test"])
def test_a_shell_in_the_failed_build(
    section: str,
    recipe: Callable[[str], Path],
    singbuild: Build,
    nothing_left: Callable[[], None],
    builder: Builder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("TOKEN", VALUE)
    text = failing(section) + "%environment\n    export GREETING=hello\n"
    secret = "--secret=id=token,env=TOKEN"
    path = recipe(text).name  # short: what is said of it fits into a line
    words = ("--no-cache", "--on-error=shell", secret, path, "a.img")
    shell = terminal_of(builder, *words, cwd=tmp_path)
    shell.expect(f"%{section} failed with status 1")
    shell.expect(f"%{section}> ")
    shell.type("echo answer-$(cat /tmp/answer) in $PWD as $USER:$GREETING\n")
    shell.expect("answer-42 in / as root:" + ("hello" if section == "test" else "\r\n"))
    shell.type("stty size; [ -t 0 ] && ls /.singbuild.script; cat /run/secrets/*\n")
    shell.expect("33 101\r\n/.singbuild.script\r\n")
    shell.expect(VALUE if section == "post" else "No such file")
    shell.type("sh -c 'echo up; exec sleep 60'\n")  # the process that has the terminal
    shell.expect("\r\nup\r\n")
    shell.type("\x03")  # ends the sleep, not the build
    shell.expect(f"%{section}> ")
    shell.type("exit 3\n")
    assert shell.status() == 7
    assert "recipe.def:4" in shell.output
    nothing_left()


def test_a_shell_for_setup_is_on_the_host(
    recipe: Callable[[str], Path], singbuild: Build, builder: Builder, tmp_path: Path
) -> None:
    path = recipe("Bootstrap: busybox\n%setup\n    false\n")
    shell = terminal_of(builder, "--no-cache", "--on-error=shell", path, "a.img", cwd=tmp_path)
    shell.expect("%setup> ")
    shell.type("ls $SINGBUILD_ROOTFS/bin/busybox && pwd\n")
    shell.expect(f"rootfs/bin/busybox\r\n{tmp_path}\r\n")
    shell.type("exit\n")
    assert shell.status() == 7


def test_a_build_that_is_killed_while_its_shell_is_open_leaves_nothing(
    recipe: Callable[[str], Path],
    singbuild: Build,
    nothing_left: Callable[[], None],
    builder: Builder,
    tmp_path: Path,
) -> None:
    words = ("--no-cache", "--on-error=shell", recipe(failing("post")), "a.img")
    shell = terminal_of(builder, *words, cwd=tmp_path)
    shell.expect("%post> ")
    os.kill(shell.child, signal.SIGTERM)
    assert shell.status() == 143
    nothing_left()


def test_an_ordinary_users_shell(user: User) -> None:
    path = user.directory / "recipe.def"
    path.write_text(failing("post"))
    shell = users_terminal(user, "--on-error=shell", path, "a.img")
    shell.expect("%post> ")
    shell.type("echo $(id -u)-$(cat /tmp/answer)-$(ls /proc/self/comm)\n")
    shell.expect("0-42-/proc/self/comm\r\n")
    shell.type("exit\n")
    assert shell.status() == 7
    assert not user.left()


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_no_shell_without_a_terminal(
    more: list[str], recipe: Callable[[str], Path], singbuild: Build
) -> None:
    done = singbuild("--on-error=shell", *more, recipe(failing("post")), "a.img")
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr + done.stdout


LONG = """\
Bootstrap: busybox
%files
    data.txt /data
%post
    echo post >> /times
    test -e /go {mended}
    echo end >> /times
%test
    echo test >> /times
    {test}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SINGBUILD_CACHEDIR", str(tmp_path / "cache"))
    (tmp_path / "data.txt").write_text("data")
    return tmp_path


@pytest.mark.parametrize("cache", [[], ["--no-cache"]])
def test_a_mended_section_goes_on_in_the_tree_that_it_left(
    cache: list[str], place: Path, recipe: Callable[[str], Path], singbuild: Build
) -> None:
    broken = recipe(LONG.format(mended="", test="true"))
    failed = singbuild("--on-error=keep", *cache, broken, "a.img")
    assert failed.returncode == 7
    assert "continue with --resume" in failed.stderr
    assert "failed post" in singbuild("cache", "list").stdout
    mended = recipe(LONG.format(mended="|| true", test="true"))
    resumed = singbuild("--resume", "--json", *cache, mended, "a.img")
    assert resumed.returncode == 0, resumed.stdout
    events = [json.loads(line) for line in resumed.stdout.splitlines()]
    phases = [event["name"] for event in events if event["event"] == "phase"]
    assert phases == ["resolve", "scratch", "post", "metadata", "seal", "test", "finish"]
    assert cat(place / "a.img", "/times") == "post\npost\nend\n"
    assert '"resumed": true' in cat(place / "a.img", "/.singularity.d/build.json")
    # Its stages are nobody else's, and there is nothing to resume any more.
    honest = singbuild(*cache, mended, "b.img")
    assert honest.returncode == 0
    assert cat(place / "b.img", "/times") == "post\nend\n"
    assert "resumed" not in cat(place / "b.img", "/.singularity.d/build.json")
    again = singbuild("--resume", mended, "c.img")
    assert (again.returncode, "there is no failed build" in again.stderr) == (2, True)


def test_a_test_is_resumed_and_may_fail_again(
    place: Path, recipe: Callable[[str], Path], singbuild: Build
) -> None:
    broken = recipe(LONG.format(mended="|| true", test="false"))
    assert singbuild("--on-error=keep", broken, "a.img").returncode == 7
    again = singbuild("--resume", "--on-error=keep", broken, "a.img")
    assert (again.returncode, "--resume" in again.stderr) == (7, True)
    mended = recipe(LONG.format(mended="|| true", test="true"))
    assert singbuild("--resume", mended, "a.img").returncode == 0
    assert cat(place / "a.img", "/times") == "post\nend\ntest\ntest\n"


CHANGES: dict[str, tuple[str, str]] = {
    "file": ("data.txt", "data.txt"),
    "destination": ("/data\n", "%files"),
    "post": ("echo end", "%post"),
    "labels": ("%test", "%labels"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_came_before_must_be_as_it_was(
    change: str, place: Path, recipe: Callable[[str], Path], singbuild: Build
) -> None:
    fails_in_test = change in ("post", "labels")
    text = LONG.format(mended="|| true" if fails_in_test else "", test="false")
    assert singbuild("--on-error=keep", recipe(text), "a.img").returncode == 7
    old, output = CHANGES[change]
    if change == "file":
        (place / "data.txt").write_text("other")
    else:
        more = {"destination": "/other\n", "post": "echo other", "labels": "%labels\n  A b\n%test"}
        text = text.replace(old, more[change])
    done = singbuild("--resume", recipe(text), "a.img")
    assert done.returncode == 2
    assert f"What went in before has changed: {output}" in done.stderr


def test_nothing_to_resume_and_what_does_not_go_with_it(
    place: Path, recipe: Callable[[str], Path], singbuild: Build, nothing_left: Callable[[], None]
) -> None:
    path = recipe("Bootstrap: busybox\n%post\n    false\n")
    assert singbuild(path, "a.img").returncode == 7
    done = singbuild("--resume", path, "a.img")
    assert done.returncode == 2
    assert "there is no failed build of" in done.stderr
    assert "--on-error=keep" in done.stderr
    for other in ("--locked", "--check-reproducible"):
        assert singbuild("--resume", other, path, "a.img").returncode == 2
    nothing_left()


def test_a_tree_with_a_secret_in_it_is_not_kept(
    place: Path, recipe: Callable[[str], Path], singbuild: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", VALUE)
    text = "Bootstrap: busybox\n%post\n    cp /run/secrets/token /token\n    false\n"
    words = ("--on-error=keep", "--secret=id=token,env=TOKEN", recipe(text))
    done = singbuild(*words, "a.img")
    assert done.returncode == 7
    assert "the secret 'token' is in the image: /token" in done.stderr
    remaining = (place / "cache").rglob("*.img")
    assert [path for path in remaining if VALUE.encode() in path.read_bytes()] == []


def test_an_ordinary_user_resumes(user: User) -> None:
    path = user.directory / "recipe.def"
    (user.directory / "data.txt").write_text("data")
    path.write_text(LONG.format(mended="", test="true"))
    process = user.start("--on-error=keep", str(path), "a.img")
    output = process.communicate()[1]
    assert (process.returncode, "--resume" in output) == (7, True), output
    path.write_text(LONG.format(mended="|| true", test="true"))
    process = user.start("--resume", str(path), "a.img")
    output = process.communicate()[1]
    assert process.returncode == 0, output
    assert cat(user.directory / "a.img", "/times") == "post\npost\nend\n"
    assert not user.left()


def test_a_directory_that_cannot_be_written_at_the_end_is_told(user: User) -> None:
    """The log is closed by then."""
    target = user.directory / "box"
    text = f"Bootstrap: busybox\n%setup\n    mkdir {target}\n    touch {target}/mine\n"
    process = user.start("--no-cache", "--format", "directory", "-", "box")
    _, messages = process.communicate(text)
    assert process.returncode == 8, messages
    assert "bug" not in messages
    assert (target / "mine").exists()


def test_a_section_fails_for_who_ignores_ends_of_children(user: User) -> None:
    """The kernel would reap by itself, and each program would seem to succeed: wait(2), NOTES."""
    path = user.directory / "recipe.def"
    path.write_text(failing("post"))
    terminal = users_terminal(user, path, "a.img", before=("env", "--ignore-signal=CHLD"))
    terminal.expect("%post failed with status 1")
    assert terminal.status() == 7
