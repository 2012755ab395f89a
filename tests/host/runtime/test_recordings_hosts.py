"""Launches that could be recorded where the image, the host or the limits are odd ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from singrun import syscalls
from singrun.recordings import calls, directory, form
from tests.bench import singrun_images as images
from tests.bench.host import wait_until
from tests.bench.singrun_images import Person, Word
from tests.host.runtime.test_recordings import (
    CHANGES,
    OPTIONS,
    Desk,
    changes,
    desk,
    module_desk,
    pytestmark,
    seen,
)

__all__ = ["desk", "module_desk", "pytestmark"]
SCRIPT = ".singularity.d/env/60-more.sh"


def same(desk: Desk, *words: Word, **options: object) -> tuple[int, bytes, bytes]:
    """Launch often enough to be recorded and played; the answer, which is Python's each time."""
    done = [desk.plain.singrun("exec", *words, **options)]  # type: ignore[arg-type]
    done += [desk.user.singrun("exec", *words, **options) for _ in range(5)]  # type: ignore[arg-type]
    answers = [(each.returncode, each.stdout, each.stderr) for each in done]
    assert answers == answers[:1] * 6
    return answers[0]


def without_sh(tree: Path) -> None:
    for name in ("sh", "dash"):
        (tree / "bin" / name).unlink()


def older(tree: Path) -> None:
    (tree / ".singularity.d/actions/exec").rename(tree / ".exec")


def with_terminal(tree: Path) -> None:
    (tree / SCRIPT).write_text("export TERM=image\nexport LOGNAME=image\n")


@pytest.mark.parametrize("change", [without_sh, older])
def test_an_image_without_an_action_and_its_shell_is_python_s(
    desk: Desk, change: Callable[[Path], None]
) -> None:
    image = desk.variant(change.__name__, change)
    assert same(desk, image, "/bin/busybox", "echo", "yes")[:2] == (0, b"yes\n")


@pytest.mark.parametrize("name", ["TERM", "LOGNAME"])
def test_what_the_image_sets_and_the_caller_too_is_a_fact(desk: Desk, name: str) -> None:
    image = desk.variant(f"sets-{name}", with_terminal)
    desk.recorded(image)
    assert desk.is_played("exec", image, "true")
    for person in (desk.user, desk.plain):
        person.variables[name] = "caller"
    assert f"{name}=caller\n" in desk.user.output("exec", image, "env")


def test_another_terminal_is_no_other_launch_where_the_image_does_not_set_it(desk: Desk) -> None:
    desk.recorded(desk.by_data)
    desk.user.variables["TERM"] = "other"
    assert desk.is_played("exec", desk.by_data, "true")


def test_a_script_that_is_a_link_to_nothing_yet_is_python_s(desk: Desk) -> None:
    later = Path(desk.user.home, "later.sh")
    image = desk.variant("later", lambda tree: (tree / SCRIPT).symlink_to(later))
    same(desk, image, "true")
    later.write_text("export LINKED=later\n")
    later.chmod(0o644)
    assert "LINKED=later\n" in desk.user.output("exec", image, "env")


@pytest.mark.parametrize("options", OPTIONS)
def test_images_whose_scripts_set_what_the_caller_has_are_the_same(
    desk: Desk, options: list[str]
) -> None:
    image = desk.by_data.parent / "options.img"
    if not image.exists():
        desk.variant("options", with_terminal)
    desk.recorded(image, *options)
    assert seen(desk.user, image, *options) == seen(desk.plain, image, *options)
    words: tuple[Word, ...] = ("exec", *options, image, "true")
    played = changes(desk.trace(desk.user, *words, calls=CHANGES))
    assert played == changes(desk.trace(desk.plain, *words, calls=CHANGES))


def test_another_installation_has_its_own_recordings(desk: Desk) -> None:
    desk.recorded(desk.by_data)
    other = desk.place / "other"
    shutil.copytree(desk.player.parents[2], other, symlinks=True)
    module = other / "singrun/program.py"
    module.write_text(f"{module.read_text()}\n_OWN = ()\n")
    subprocess.run([images.PYTHON, "-m", "compileall", "-q", other], check=True)
    words: list[Word] = [other / "singrun/recordings/player", "/bin/echo", "HERE"]
    words += [f"{other}/bin/../singrun/__main__.py", "exec", desk.by_data, "true"]
    environment = desk.user.environment() | {"PWD": desk.user.home}
    assert desk.user.call(*words, env=environment).stdout.startswith(b"-IS")


@pytest.fixture
def player(desk: Desk) -> Iterator[Path]:
    """The path of the player, which is whole again afterwards."""
    whole = desk.place / "player"
    shutil.copy(desk.player, whole)
    yield desk.player
    desk.player.unlink()
    shutil.copy(whole, desk.player)


def spoil_machine(program: bytes) -> bytes:
    return program[:18] + b"\x09\xfe" + program[20:]  # elf(5), e_machine


@pytest.mark.parametrize("spoil", [spoil_machine, lambda program: program[:100], lambda _: b""])
def test_a_player_that_this_host_cannot_execute_is_not_needed(
    desk: Desk, player: Path, spoil: Callable[[bytes], bytes]
) -> None:
    desk.recorded(desk.by_data)
    time.sleep(0.02)  # the kernel's tick: it is newer than what was seen of the one before
    program = player.read_bytes()
    player.unlink()
    player.write_bytes(spoil(program))
    player.chmod(0o755)
    assert same(desk, desk.by_data, "echo", "yes") == (0, b"yes\n", b"")
    assert (desk.recordings / "player").readlink() == Path()


def test_a_player_whose_library_is_missing_is_not_needed(desk: Desk, player: Path) -> None:
    desk.forget()
    source, library = desk.place / "library.c", desk.place / "library.so"
    source.write_text("int here(void) { return 0; }\n")
    words: list[Word] = ["cc", "-shared", "-o", library, source]
    subprocess.run(words, check=True)
    words = ["cc", "-Wl,--no-as-needed", "-o", player, *player.parent.glob("*.c"), library]
    subprocess.run(words, check=True)
    library.unlink()
    assert same(desk, desk.by_data, "echo", "yes") == (0, b"yes\n", b"")


def test_nothing_is_recorded_for_a_player_of_another_version(desk: Desk) -> None:
    here = desk.user.launcher.parent
    for letters, count in (
        ("player", 0),
        (f"player={form.FIELDS[:-2]}", 0),
        (f"player={form.FIELDS}", 1),
    ):
        desk.recorded(desk.by_data)
        (recording,) = desk.noted()
        recording.write_bytes(b"")
        for _ in range(3):
            script = 'read -r _ _ rest </proc/$$/stat; exec "$0" -IS -X utf8 -X stat="$rest" "$@"'
            words: list[Word] = [
                "sh",
                "-c",
                script,
                images.PYTHON,
                "-X",
                f"here={here}",
                "-X",
                letters,
            ]
            done = desk.user.call(
                *words, f"{here}/../singrun/__main__.py", "exec", desk.by_data, "true"
            )
            assert (done.returncode, done.stderr) == (0, b""), done
        assert len(desk.noted()) == count


def test_where_a_failure_could_not_be_noted_nothing_is_played(desk: Desk) -> None:
    """It would come again at each launch."""
    desk.recorded(desk.by_data)
    assert desk.is_played("exec", desk.by_data, "true")
    read_only = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    trace: list[Word] = ["strace", "-f", "-qq", "-e", "trace=execve", desk.user.launcher]
    words = desk.user.words(*trace, "exec", desk.by_data, "true")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", read_only, desk.recordings, *words],
        capture_output=True,
        check=True,
        env=desk.user.environment(),
        cwd=desk.user.home,
    )
    assert b"utf8" in done.stderr


def test_where_apparmor_tells_programs_apart_nothing_is_recorded(desk: Desk) -> None:
    desk.apparmor.write_text("1\n")
    same(desk, desk.by_data, "true")
    assert not desk.noted()
    desk.apparmor.write_text("0\n")
    desk.recorded(desk.by_data)


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory that no launch binds by itself."""
    with tempfile.TemporaryDirectory(dir="/srv") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("place", ["below", "cwd"])
def test_what_is_looked_at_through_a_bind_is_python_s(
    desk: Desk, outside: Path, place: str
) -> None:
    target, source = outside / "target", outside / "source"
    for each in (target, source):
        (each / "job").mkdir(parents=True)
    options = ["-B", f"{source}:{target}"]
    options += ["-B", f"{target}/job"] if place == "below" else []
    cwd = target / "job" if place == "cwd" else Path(desk.user.home)
    for _ in range(4):
        desk.user.singrun("exec", *options, desk.by_data, "pwd", cwd=cwd)
    assert not desk.noted()
    (source / "job").rmdir()
    same(desk, *options, desk.by_data, "pwd", cwd=cwd)


def in_pid_namespace(person: Person, image: Path) -> tuple[int, bytes, bytes]:
    """Launch in a PID namespace of which there is no /proc."""
    words = person.words(person.launcher, "exec", image, "echo", "fine")
    done = subprocess.run(
        ["unshare", "-pf", *words],
        env=person.environment(),
        cwd=person.home,
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_process_may_have_another_id_in_proc(desk: Desk) -> None:
    desk.recorded(desk.by_data)
    assert in_pid_namespace(desk.user, desk.by_data) == (0, b"fine\n", b"")
    desk.forget()
    for _ in range(5):
        assert in_pid_namespace(desk.user, desk.by_data) == (0, b"fine\n", b"")
    assert desk.user.output("exec", desk.by_data, "echo", "fine") == "fine\n"


def test_limits_are_told_and_not_held_against_the_recording(desk: Desk) -> None:
    desk.recorded(desk.by_data)
    before = [each.read_bytes() for each in desk.noted()]
    for limit in ("-f 0", "-n 12", "-n 16", "-n 24"):
        script = f'ulimit {limit}; exec "$@"'
        people = (desk.user, desk.plain)
        words = ("exec", desk.by_data, "true")
        done = [p.call("sh", "-c", script, "sh", p.launcher, *words) for p in people]
        # What cannot be opened may be a module.
        assert done[0].stderr == done[1].stderr.replace(b"/without/", b"/with/"), limit
        assert done[0].returncode == done[1].returncode
    assert [each.read_bytes() for each in desk.noted()] == before


def spoil_interpreter(tree: Path) -> None:
    (tree / "bin/dash").write_bytes(b"\x7fELF\0\0garbage")
    (tree / "bin/dash").chmod(0o755)


def test_a_shell_that_cannot_be_executed_is_told_as_python_does(desk: Desk) -> None:
    image = desk.variant("bad-shell", spoil_interpreter)
    wait_until(lambda: desk.is_played("exec", image, "/bin/busybox", "true"), 10)
    for words in (("no-such",), ("/tmp",)):
        done = [p.singrun("exec", image, *words) for p in (desk.user, desk.plain)]
        answers = [(each.returncode, each.stdout, each.stderr) for each in done]
        assert answers[0] == answers[1]
        assert answers[0][0] == 255
        assert b"Cannot execute /.singularity.d/actions/exec in the image" in answers[0][2]
    assert desk.is_played("exec", image, "/bin/busybox", "true")


def test_a_command_line_is_recorded_when_it_comes_again(desk: Desk) -> None:
    desk.recorded(desk.by_data)
    assert not desk.is_played("exec", "--no-home", desk.by_data, "true")
    assert len(desk.noted()) == 1
    wait_until(lambda: desk.is_played("exec", "--no-home", desk.by_data, "true"), 10)
    assert len(desk.noted()) == 2


def test_what_cannot_be_recorded_is_not_tried_at_each_launch(desk: Desk) -> None:
    """The image sets TERM and so does the caller: a file is made, for which there is no letter."""
    image = desk.variant("not-recorded", with_terminal)
    desk.user.variables["TERM"] = "other"

    def marks() -> list[Path]:
        assert not desk.user.singrun("exec", image, "true").returncode
        names = [each for each in desk.recordings.iterdir() if each.is_file()]
        return [each for each in names if each.read_bytes() == directory.FAILED]

    wait_until(lambda: bool(marks()), 10)
    (mark,) = marks()
    before = mark.stat()
    assert marks() == [mark]
    assert mark.stat().st_mtime_ns == before.st_mtime_ns


def test_a_path_with_a_control_character_is_told_after_the_root_has_changed(
    desk: Desk, outside: Path
) -> None:
    path = outside / "c\x01d"
    path.write_text("")
    for person in (desk.user, desk.plain):
        done = person.singrun("exec", desk.by_data, "cat", path)
        assert done.returncode == 1
        assert rf"{outside}/c\x01d is not shared".encode() in done.stderr


def test_a_function_that_calls_the_kernel_has_a_letter_or_looks_or_ends_the_recording(
    tmp_path: Path,
) -> None:
    for module, looks in calls._LOOKS.items():
        assert looks | {*calls._LETTERS[module]} <= calls.functions(module)
    changes_: list[Callable[[], object]] = [
        lambda: open(tmp_path / "file", "w").close(),
        lambda: (tmp_path / "file").chmod(0o600),
        lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
        lambda: syscalls.setfsuid(os.geteuid()),
    ]
    for change in changes_:
        notes = calls.Calls()
        try:
            (tmp_path / "file").exists()
            assert notes.is_whole
            change()
        finally:
            notes.stop()
        assert not notes.is_whole
