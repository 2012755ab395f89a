"""The line that failed, told by real shells."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from singbuild.tree.trace import Trace

SHELLS = [[name] for name in ("dash", "bash") if shutil.which(name)] + (
    [["busybox", "sh"]] if shutil.which("busybox") else []
)

CASES = {
    "plain": ("echo one\necho two\nfalse\necho four\n", 3),
    "not found": ("\n\n\necho one\nno-such-program-here x\necho never\n", 5),
    "in a loop": ("for i in 1 2; do\n    echo $i\n    test $i = 1\ndone\necho never\n", 3),
    "in a function": ("broken() {\n    false\n}\necho one\nbroken\n", 5),
    "after output without a newline": ("printf x\nprintf y\nfalse\n", 3),
    "after a here-document": ("cat <<END\nfalse\nEND\necho one\nfalse\n", 5),
    "after comments and blanks": ("# false\n\n# more\nfalse # why\n", 4),
    "of several words": ("echo 'a\nb'\nls /no/such/file\ntrue\n", 3),
    "continued": ("echo one\nls \\\n    /no/such/file\n", 2),
    "exit": ("echo one\nexit 3\necho never\n", 2),
}


def run(shell: list[str], script: str, tmp_path: Path) -> tuple[Trace, list[str]]:
    path = tmp_path / "script"
    path.write_text(script)
    done = subprocess.run(
        [*shell, "-e", "-x", "-v", str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    trace = Trace(script.splitlines())
    lines = [trace.shown(line) for line in done.stdout.decode().splitlines()]
    return trace, [line for line in lines if line is not None]


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
@pytest.mark.parametrize("case", CASES)
def test_the_failed_line_is_found(shell: list[str], case: str, tmp_path: Path) -> None:
    script, line = CASES[case]
    assert run(shell, script, tmp_path)[0].failed == line


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_the_user_sees_output_and_commands_but_not_the_script(
    shell: list[str], tmp_path: Path
) -> None:
    script = "echo one\nprintf two\necho three\n"
    lines = ["+ echo one", "one", "+ printf two", "two", "+ echo three", "three"]
    assert run(shell, script, tmp_path)[1] == lines


def test_output_that_looks_like_the_script_is_kept_when_it_is_not_its_turn() -> None:
    trace = Trace(["echo false", "true", "false"])
    assert trace.shown("echo false") is None
    assert trace.shown("+ echo false") == "+ echo false"
    assert trace.shown("unrelated") == "unrelated"


def test_the_traces_of_a_pipeline_that_lie_in_one_another_end_no_command() -> None:
    trace = Trace(["", "echo one | grep -q two", ""])
    for line in ("", "echo one | grep -q two", "+ + echogrep one -q", " two", ""):
        trace.shown(line)
    assert trace.failed == 2
