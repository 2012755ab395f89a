"""`singbuild recipe image`, whole: what comes out, and what is left when it fails."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.builds import SINGBUILD, Build, Builder, killed_in
from tests.bench.host import PATIENCE, wait_until

pytestmark = pytest.mark.root

FULL = """\
Bootstrap: busybox

%setup
    echo "from setup" > "$SINGBUILD_ROOTFS/from-setup"
%files
    data.txt /opt/
    "with space.txt" /opt/renamed
    many/*.txt /opt/many
    tree /opt/tree
%post
    echo "in post" > /from-post
    cat /etc/resolv.conf > /resolver-seen
    (sleep 1000; touch /daemon-was-here) &
%environment
    export GREETING="hello there"
%labels
    Author Somebody "Quoted" Else
    Version 1.0
%runscript
    echo "$GREETING: $# arguments:" "$@"
%test
    test "$GREETING" = "hello there"
    test -f /from-post
%help
    Two lines
    of help.
"""


def write_inputs(directory: Path) -> None:
    (directory / "data.txt").write_text("data")
    (directory / "data.txt").chmod(0o640)
    (directory / "with space.txt").write_text("space")
    (directory / "many").mkdir()
    for name in "ab":
        (directory / "many" / f"{name}.txt").write_text(name)
    (directory / "tree" / "deep").mkdir(parents=True)
    (directory / "tree" / "deep" / "link").symlink_to(directory / "data.txt")


def debugfs(image: Path, command: str) -> str:
    done = subprocess.run(["debugfs", "-R", command, image], capture_output=True, text=True)
    return done.stdout


def cat(image: Path, path: str) -> str:
    return debugfs(image, f'cat "{path}"')


@pytest.fixture(scope="module")
def built(builder: Builder) -> Path:
    directory = builder.own_directory("built")
    write_inputs(directory)
    (directory / "full.def").write_text(FULL)
    builder.run("full.def", "full.img", cwd=directory, check=True)
    return directory / "full.img"


def test_the_image_is_a_clean_ext3_file_system(built: Path) -> None:
    subprocess.run(["e2fsck", "-fn", built], check=True, capture_output=True)
    assert "ext3 filesystem" in subprocess.check_output(["file", built], text=True)


@pytest.mark.root_itself("it mounts the image")
def test_the_kernel_mounts_the_image(built: Path, tmp_path: Path) -> None:
    mount = f'mount -o loop,ro "{built}" "{tmp_path}" && cat "{tmp_path}/from-post"'
    text = subprocess.check_output(["unshare", "-m", "sh", "-c", mount], text=True)
    assert text == "in post\n"


def test_the_image_is_an_executable_script(built: Path) -> None:
    assert built.read_bytes()[:24].startswith(b"#!/usr/bin/env singrun\n")
    assert built.stat().st_mode & 0o777 == 0o755


def test_sections_did_their_work(built: Path) -> None:
    assert cat(built, "/from-setup") == "from setup\n"
    assert cat(built, "/opt/data.txt") == "data"
    assert cat(built, "/opt/renamed") == "space"
    assert cat(built, "/opt/many/b.txt") == "b"
    assert cat(built, "/opt/tree/deep/link") == "data"
    assert re.search(
        r"Mode:\s+0640[^$]*?User:\s+0\s+Group:\s+0", debugfs(built, "stat /opt/data.txt")
    )


def test_metadata_is_what_the_format_says(built: Path) -> None:
    assert json.loads(cat(built, "/.singularity.d/labels.json")) == {
        "Author": 'Somebody "Quoted" Else',
        "Version": "1.0",
    }
    assert cat(built, "/.singularity.d/Singularity") == FULL
    assert cat(built, "/.singularity.d/runscript.help") == "    Two lines\n    of help.\n"
    for link, target in (("/singularity", "runscript"), ("/.exec", "actions/exec")):
        assert f'Fast link dest: ".singularity.d/{target}"' in debugfs(built, f"stat {link}")


def test_the_hosts_name_resolution_was_only_lent(built: Path) -> None:
    assert cat(built, "/resolver-seen") == Path("/etc/resolv.conf").read_text()
    assert cat(built, "/etc/resolv.conf") == ""


def test_nothing_of_the_build_stays_inside(built: Path) -> None:
    listed = debugfs(built, "ls -l /") + debugfs(built, "ls -l /dev")
    assert "singbuild" not in listed
    assert "daemon" not in listed
    assert "null" not in listed


@pytest.mark.parametrize("section", ["post", "test", "setup"])
def test_the_third_command_of_five_fails(
    section: str,
    recipe: Callable[[str], Path],
    singbuild: Build,
    nothing_left: Callable[[], None],
    tmp_path: Path,
) -> None:
    text = f"Bootstrap: busybox\n\n%{section}\n    true\n    echo second\n    ls /no-such-file\n"
    done = singbuild(recipe(text + "    echo never\n    true\n"), "a.img")
    assert done.returncode == 7
    assert f"recipe.def:6: %{section} failed with status" in done.stderr
    assert "     6 |     ls /no-such-file" in done.stderr
    log = Path(re.search(r"The full log: (.*)", done.stderr)[1])  # type: ignore[index]
    assert "second" in log.read_text()
    assert "never" not in log.read_text()
    nothing_left()
    log.unlink()


@pytest.mark.parametrize(
    "post",
    [
        "%post\n    #!/usr/bin/env sh",
        "%post\n#!/usr/bin/env -i PATH=/bin sh -u",
        '%post -c "/usr/bin/env sh"\n',
        "%post -c /bin/busybox sh\n",
        "%post\n#!/bin/sh -x",
    ],
)
def test_a_failing_command_stops_whatever_the_first_line_says(
    post: str, recipe: Callable[[str], Path], singbuild: Build
) -> None:
    done = singbuild(recipe(f"Bootstrap: busybox\n{post}\n    ls /no-such\n    true\n"), "a.img")
    assert done.returncode == 7, done.stdout
    assert "recipe.def:4: %post failed with status 1" in done.stderr


def test_what_test_writes_does_not_stay(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    path = recipe(
        "Bootstrap: busybox\n%test\n    echo x > /written; rm /bin/vi; touch /etc/passwd\n"
    )
    assert singbuild("--no-cache", path, "a.img").returncode == 0
    assert singbuild("--no-cache", "--notest", path, "b.img").returncode == 0
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()
    assert "written" not in debugfs(tmp_path / "a.img", "ls /")


SLOW = """\
Bootstrap: busybox
%setup
    if [ "$SLOW" = setup ]; then sleep 60; fi
%post
    sleep 1
%test
    sleep 1
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("phase", ["resolve", "scratch", "bootstrap", "setup", "post", "test"])
def test_a_signal_in_any_phase_leaves_nothing(
    number: signal.Signals,
    phase: str,
    recipe: Callable[[str], Path],
    singbuild: Build,
    nothing_left: Callable[[], None],
    tmp_path: Path,
    builder: Builder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLOW", phase)
    delay = 0.2 if phase in ("setup", "post", "test") else 0
    words: list[str | Path] = ["--no-cache", recipe(SLOW), "a.img"]
    status = killed_in(phase, number, words, tmp_path, delay, builder)
    assert status == (-9 if number == signal.SIGKILL else 128 + number)
    if number == signal.SIGKILL:  # what is left is files, and the next build sweeps them
        monkeypatch.setenv("SLOW", "no")
        failing = recipe("Bootstrap: busybox\n%post\n    false\n", "failing.def")  # type: ignore[call-arg]
        wait_until(lambda: singbuild(failing, "a.img").returncode == 7)
    nothing_left()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_the_caller_ignores_ends_no_build(
    number: signal.Signals, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    """As under nohup(1), or in the background of a script."""
    path = recipe("Bootstrap: busybox\n%post\n    true\n")
    words = ["build", "--json", "--no-cache", str(path), "a.img"]
    argv = ["env", f"--ignore-signal={number.value}", *SINGBUILD, *words]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if '"name": "post"' in line:
                process.send_signal(number)
    assert process.returncode == 0


def test_a_signal_that_the_caller_blocks_ends_a_build(
    recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    """Before it has handlers of its own, too: here while it reads the recipe."""
    os.mkfifo(tmp_path / "a.def")
    argv = ["env", "--block-signal", *SINGBUILD, "build", "a.def", "a.img"]
    process = subprocess.Popen(argv, cwd=tmp_path)
    with (tmp_path / "a.def").open("w"):  # opens when singbuild has opened it
        process.send_signal(signal.SIGTERM)
        process.wait(60 * PATIENCE)
    assert process.returncode == -signal.SIGTERM


def test_the_worker_killed_from_outside_is_reported(
    recipe: Callable[[str], Path],
    tmp_path: Path,
    singbuild: Build,
    builder: Builder,
    nothing_left: Callable[[], None],
) -> None:
    path = recipe("Bootstrap: busybox\n%post\n    sleep 60\n")
    done = builder.run_killing_worker(path, "a.img", cwd=tmp_path)
    assert done.returncode == 5
    assert "the build was killed" in done.stderr
    nothing_left()


def test_an_existing_target_is_refused_and_replaced_only_by_a_whole_one(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    target = tmp_path / "a.img"
    target.write_text("precious")
    assert "left alone" in singbuild("--force", recipe("Bootstrap: busybox\n"), "a.img").stderr
    target.write_text("hsqs: a precious squashfs")
    good = recipe("Bootstrap: busybox\n")
    refused = singbuild(good, "a.img")
    assert refused.returncode == 8
    assert "--force" in refused.stderr
    bad = recipe("Bootstrap: busybox\n%post\n    false\n", "bad.def")  # type: ignore[call-arg]
    assert singbuild("--force", bad, "a.img").returncode == 7
    assert target.read_text() == "hsqs: a precious squashfs"
    assert singbuild("--force", good, "a.img").returncode == 0
    subprocess.run(["e2fsck", "-fn", target], check=True, capture_output=True)


BAD = {
    "no recipe": (["nothing.def", "a.img"], None, 3, "nothing.def"),
    "a directory": ([".", "a.img"], None, 3, "directory"),
    "unknown key": ([], "Bootstrap: busybox\nMirorURL: x\n", 3, "Did you mean MirrorURL?"),
    "unknown section": ([], "Bootstrap: busybox\n%postt\n", 3, "Did you mean %post?"),
    "no BootStrap": ([], "MirrorURL: x\n", 3, "Bootstrap"),
    "unknown backend": ([], "Bootstrap: busibox\n", 4, "did you mean 'busybox'?"),
    "missing keyword": ([], "Bootstrap: debootstrap\n", 3, "needs the keyword OSVersion"),
    "unreachable mirror": (
        [],
        "Bootstrap: busybox\nMirrorURL: http://127.0.0.1:1/busybox\n",
        6,
        "127.0.0.1:1",
    ),
    "wrong checksum": (
        [],
        f"Bootstrap: busybox\nMirrorURL: /bin/busybox\nSHA256: {'0' * 64}\n",
        6,
        "0" * 64,
    ),
    "target in no directory": (["{}", "none/a.img"], "Bootstrap: busybox\n", 8, "none"),
    "target is a directory": (["{}", "/usr"], "Bootstrap: busybox\n", 8, "/usr is a directory"),
    "target is the root": (["{}", "/"], "Bootstrap: busybox\n", 8, "/ is left alone"),
    "target is data": (["{}", "/usr/"], "Bootstrap: busybox\n", 8, "/usr is left alone"),
    "missing %files": ([], "Bootstrap: busybox\n%files\n    none.txt\n", 3, "none.txt"),
    "bad %environment": ([], "Bootstrap: busybox\n%environment\n    if\n", 3, "%environment"),
    "bad size": (
        ["--free", "much", "{}", "a.img"],
        "Bootstrap: busybox\n",
        2,
        "'much' is not a size",
    ),
    "a word like a command": (["bild", "a.img"], None, 2, "singbuild build"),
    "no image named": (["{}"], "Bootstrap: busybox\n", 2, "IMAGE"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_explained(
    case: str,
    recipe: Callable[[str], Path],
    singbuild: Build,
    nothing_left: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    words, text, status, output = BAD[case]
    path = str(recipe(text)) if text else ""
    done = singbuild(*[word.replace("{}", path) for word in words or [path, "a.img"]])
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
    assert output in done.stderr
    nothing_left()


def test_events_are_json(recipe: Callable[[str], Path], singbuild: Build) -> None:
    text = "Bootstrap: busybox\n%post\n    echo hi\n"
    done = singbuild("build", "--json", "--no-cache", recipe(text), "a.img")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    phases = [event["name"] for event in events if event["event"] == "phase"]
    assert phases == ["resolve", "scratch", "bootstrap", "post", "metadata", "seal", "finish"]
    assert events[0]["event"] == "start"
    assert events[-1]["event"] == "done"
    assert "hi" in [event.get("text") for event in events]


def test_a_template_is_rendered_and_recorded(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    text = (
        "Bootstrap: busybox\n%arguments\n    name=nobody\n"
        '%post\n    word=abc\n    echo "{{ name }} ${#word}" > /who\n'
    )
    assert singbuild("--build-arg", "name=alice", recipe(text), "a.img").returncode == 0
    assert cat(tmp_path / "a.img", "/who") == "alice 3\n"


@pytest.mark.parametrize("interpreter", ["%post -c /opt/ash", "%post\n#!/opt/ash"])
def test_a_section_names_its_interpreter(
    interpreter: str, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    shell = tmp_path / "ash"
    shell.write_text('#!/bin/sh\necho "$0" > /who\nexec /bin/sh "$@"\n')
    shell.chmod(0o755)
    text = f"Bootstrap: busybox\n%files\n    ash /opt/ash\n{interpreter}\n    echo here >> /who\n"
    done = singbuild(recipe(text), "a.img")
    assert done.returncode == 0, done.stderr
    assert cat(tmp_path / "a.img", "/who") == "/opt/ash\nhere\n"


def test_free_room_is_left(recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path) -> None:
    path = recipe("Bootstrap: busybox\n")
    assert singbuild(path, "a.img").returncode == 0
    assert singbuild("--free", "64M", path, "b.img").returncode == 0
    free = re.search(r"Free blocks:\s+(\d+)", debugfs(tmp_path / "b.img", "stats"))
    assert free
    assert int(free[1]) * 4096 >= 64 << 20
    subprocess.run(["e2fsck", "-fn", tmp_path / "b.img"], check=True, capture_output=True)


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o700), (0o022, 0o755), (0o002, 0o775)])
def test_an_image_is_for_whom_the_callers_umask_allows(
    mask: int, mode: int, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    result = recipe("Bootstrap: busybox\n%post\n    touch /made\n")
    for name in ("a.img", "b.img"):  # the second one comes from the cache
        assert singbuild(result, name, umask=mask).returncode == 0
        assert (tmp_path / name).stat().st_mode & 0o777 == mode
    assert singbuild("create", "-s", "8", "c.img", umask=mask).returncode == 0
    assert (tmp_path / "c.img").stat().st_mode & 0o777 == mode
    again = singbuild("--check-reproducible", result, "d.img", umask=mask)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "d.img").stat().st_mode & 0o777 == mode
    assert "Mode:  0644" in debugfs(tmp_path / "a.img", "stat /made")


def test_a_link_that_leads_nowhere_below_files_is_explained(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/link").symlink_to("nowhere")
    done = singbuild(recipe("Bootstrap: busybox\n%files\n    tree /tree\n"), "a.img")
    assert done.returncode == 5
    assert "tree/link is a link to nowhere, which cannot be copied" in done.stderr
    assert "make it in %post: ln -s" in done.stderr
