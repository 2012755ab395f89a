"""Limits of a launch that real programs reach, where systemd delegates cgroups of version 2."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.bench import singrun_images as images
from tests.bench import uml

pytestmark = [
    pytest.mark.root,
    pytest.mark.long,
    pytest.mark.skipif(not uml.IS_THERE, reason="needs user-mode-linux and systemd"),
]

# NAME, UID, SINGRUN and TREE are replaced. dd's buffer has bs bytes, which reading fills.
SCRIPT = """\
systemctl start user@UID.service
user="setpriv --reuid UID --regid UID --clear-groups env -i HOME=/ PATH=/usr/bin:/bin:/usr/sbin
    XDG_RUNTIME_DIR=/run/user/UID DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/UID/bus"
limited() { # TITLE WORDS
    title=$1
    shift
    echo "== $title"
    $scope SINGRUN exec "$@" 2>&1 && echo "status 0" || echo "status $?"
}
forks='for i in 1 2 3 4 5 6; do sleep 1 & done; wait; echo all'
busy='i=0; while [ $i -lt 60000 ]; do i=$((i + 1)); done; read -r line </proc/self/cgroup
    grep nr_throttled /sys/fs/cgroup${line#0::}/cpu.stat'
for who in user root; do
    scope='systemd-run --scope -q'
    [ $who = root ] || scope="$user systemd-run --user --scope -q"
    limited "$who, too much memory" --memory 64M TREE dd if=/dev/zero of=/dev/null bs=128M count=1
    limited "$who, enough memory" --memory 300M TREE dd if=/dev/zero of=/dev/null bs=128M count=1
    limited "$who, too many processes" --pids-limit 4 TREE sh -c "$forks"
    limited "$who, few processes" --pids-limit 40 TREE sh -c "$forks"
    limited "$who, a tenth of a processor" --cpus 0.1 TREE sh -c "$busy"
    limited "$who, all processors" --cpus 8 TREE sh -c "$busy"
    limited "$who, all at once" --memory 64M --memory-swap 64M --memory-reservation 32M \\
        --cpus 1 --cpu-shares 512 --pids-limit 9 TREE true
done
scope=$(echo $user)
limited "nothing is delegated" --memory 64M TREE true
echo "== left"
find /sys/fs/cgroup -name 'singrun-*'
"""


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, list[str]]]:
    """The lines that each launch printed, its status last."""
    with images.bench() as bench:
        text, uid = SCRIPT, bench.people["user"].uid
        for name, value in (("UID", uid), ("SINGRUN", bench.launcher), ("TREE", bench.tree)):
            text = text.replace(name, str(value))
        output = uml.run(text, bench.directory)
        parts = [part.splitlines() for part in output.split("== ")[1:]]
        yield {part[0]: part[1:] for part in parts}


PEOPLE = pytest.mark.parametrize("who", ["user", "root"])


@PEOPLE
def test_a_program_that_takes_more_memory_is_killed(
    outcomes: dict[str, list[str]], who: str
) -> None:
    assert outcomes[f"{who}, too much memory"][-1] == "status 137"
    assert outcomes[f"{who}, enough memory"][-1] == "status 0"


@PEOPLE
def test_no_more_processes_than_allowed(outcomes: dict[str, list[str]], who: str) -> None:
    few = outcomes[f"{who}, too many processes"]
    assert "can't fork" in few[0]
    assert "all" not in few
    assert outcomes[f"{who}, few processes"] == ["all", "status 0"]


@PEOPLE
def test_a_busy_program_waits_for_its_share(outcomes: dict[str, list[str]], who: str) -> None:
    """cpu.stat counts the periods in which it was stopped."""
    slow, status = outcomes[f"{who}, a tenth of a processor"]
    assert re.fullmatch("nr_throttled [1-9][0-9]*", slow)
    assert status == "status 0"
    assert outcomes[f"{who}, all processors"] == ["nr_throttled 0", "status 0"]


def test_several_limits_at_once_and_no_cgroup_left(outcomes: dict[str, list[str]]) -> None:
    for who in ("user", "root"):
        assert outcomes[f"{who}, all at once"] == ["status 0"]
    assert outcomes["left"] == []


def test_a_user_outside_of_what_is_delegated_is_told(outcomes: dict[str, list[str]]) -> None:
    output = outcomes["nothing is delegated"]
    assert "Cannot limit" in output[0]
    assert any("systemd-run --user --scope" in line for line in output)
    assert output[-1] == "status 255"
