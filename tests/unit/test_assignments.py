"""What images' scripts assign, evaluated by the runtime as dash would."""

from __future__ import annotations

import shutil
import subprocess
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singrun.environment.assignments import EXEC, SOURCE, evaluate

DASH = shutil.which("dash") or pytest.skip("dash is not installed", allow_module_level=True)
BEFORE = {b"PATH": b"/usr/bin:/bin", b"HOME": b"/home/ada", b"A": b"one two", b"PWD": b"/"}

names = st.sampled_from([b"A", b"B", b"PATH", b"LD_LIBRARY_PATH", b"_x1"])
# What shells know as syntax, what they do not, and what is not UTF-8.
SYNTAX = rb"""' " $ { } \ ` # ~ * ? [ ! ; & | ( < = a 7 - % ^ : /opt/bin""".split()
EXPANSIONS = rb"""$A ${B} "$A" "${PATH}" 'it'\''s' ${A:-b} $(id) $1 $$""".split()
pieces = st.sampled_from([*SYNTAX, *EXPANSIONS, b" ", b"\t", b"\0", b"\r", b"\xe9"])
words = st.lists(pieces, max_size=5).map(b"".join)
lines = st.one_of(
    st.builds(lambda name, word: b"export %b=%b" % (name, word), names, words),
    st.builds(lambda name, word: b"  export  %b=%b  " % (name, word), names, words),
    st.sampled_from([b"", b"# export A=b", b"B=c", b"unset A", b"export A", b"export IFS=:"]),
)
scripts = st.lists(lines, max_size=4).map(b"\n".join)


def by_dash(text: bytes, directory: Path) -> dict[bytes, bytes]:
    """What dash exports behind a script."""
    script = directory / "script"
    script.write_bytes(text + b"\nexec /usr/bin/env -0\n")
    done = subprocess.run([DASH, script], env=BEFORE, cwd="/", capture_output=True)
    pairs = (each.partition(b"=") for each in done.stdout.split(b"\0") if each)
    return {name: value for name, _, value in pairs}


@given(text=scripts)
def test_what_is_evaluated_is_what_dash_exports(
    text: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    values = evaluate(text, BEFORE)
    if values is not None:
        assert values == by_dash(text, tmp_path_factory.getbasetemp())


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"export A=bar", b"bar"),
        (b"export A=/opt/bin:$PATH", b"/opt/bin:/usr/bin:/bin"),
        (b'export A="/opt/bin:${PATH}"', b"/opt/bin:/usr/bin:/bin"),
        (b'export A="$A three"', b"one two three"),
        (b"export A='it'\\''s; $HOME'", b"it's; $HOME"),
        (b"export A=\"a b\"'c d'e", b"a bc de"),
        (b"export A=", b""),
        (b'export A="$NOT_SET"x', b"x"),
    ],
)
def test_plain_exports_need_no_shell(line: bytes, value: bytes, tmp_path: Path) -> None:
    values = evaluate(line, BEFORE)
    assert values
    assert values[b"A"] == value
    assert values == by_dash(line, tmp_path)


OTHER_LINES = rb"""
export A=$(id)
export A=`id`
export A=${B:-c}
export A=b; rm x
export A=~
export A=$A
export A=*
export A=b C=d
export IFS=:
export A='b
A=b
export A=$PPID
. /opt/profile
export A=b # c
export A="\$b"
set -u
"""


@pytest.mark.parametrize("line", [*OTHER_LINES.split(b"\n")[1:-1], b"export A=\0"])
def test_everything_else_is_the_shells(line: bytes) -> None:
    assert evaluate(line, BEFORE) is None


def test_values_that_grow_are_the_shells() -> None:
    assert evaluate(b'export A="$A$A"\n' * 60, BEFORE) is None


def test_no_more_of_a_value_is_made_than_may_be() -> None:
    word = b'"' + b"$LONG" * 300 + b'"'
    tracemalloc.start()
    try:
        assert evaluate(b"export A=" + word, {b"LONG": b"x" * (1 << 16)}) is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
def test_environments_may_be_read_by_source(shell: str, tmp_path: Path) -> None:
    """``source FILE`` in %environment: bash has it, and the shell that Apptainer brings along."""
    words = shell.split()
    if not shutil.which(words[0]):
        pytest.skip(f"{words[0]} is not installed")
    (tmp_path / "inner.sh").write_text('export READ="$# $1"\n')
    # BusyBox ends at a file that is not there, as POSIX has it of the dot.
    missing = "" if words[1:] else "source ./none.sh\n"
    text = f'{SOURCE}{missing}source ./inner.sh "a b" c\necho "$READ $#$1"\n'
    (tmp_path / "script").write_text(text)
    done = subprocess.run(
        [*words, "script", "mine"], cwd=tmp_path, env=BEFORE, capture_output=True, text=True
    )
    assert done.stdout == "2 a b 1mine\n", done.stderr
    assert ("none.sh" in done.stderr) == bool(missing)


def test_the_action_begins_as_all_do() -> None:
    assert EXEC.startswith(SOURCE)
