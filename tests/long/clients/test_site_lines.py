"""Lines that sites have in scripts of theirs: Open OnDemand's desktops, remote editors, kernels."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.bench.host import wait_until
from tests.long.clients.site import Site, site

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]

# As the Linux host adapter does it: a session of tmux, in it a time limit and a container; later
# the container's init is looked for among what the session's shell has started.
START = """\
cat > desktop.sh <<'SCRIPT'
echo "started $1 in $(. /etc/os-release; echo $ID)" > started
sleep 4711
SCRIPT
cat > session.sh <<'SCRIPT'
export SINGULARITY_BINDPATH=/media,/mnt,/opt,/srv
timeout 600s singularity exec OPTIONS --pid d.sif /bin/bash --login "$PWD/desktop.sh" desk
SCRIPT
tmux -S socket new-session -d -s desk sh session.sh
"""
STOP = """\
pane=$(tmux -S socket list-panes -aF '#{pane_pid}')
kill $(pstree -p -l $pane | grep -o 'sinit([[:digit:]]*' | grep -o '[[:digit:]]*')
"""


@pytest.fixture(scope="module")
def user() -> Iterator[Site]:
    with site("site-lines") as one:
        one.output("singularity", "pull", "d.sif", "docker://debian:stable-slim")
        yield one


def sleepers(user: Site) -> int:
    ps = ["ps", "-u", user.person.name, "-o", "args="]
    lines = subprocess.run(ps, capture_output=True, text=True, check=False).stdout.splitlines()
    return lines.count("sleep 4711")


@pytest.mark.parametrize("options", ["", "--contain -B $PWD"])
def test_open_ondemand_starts_a_desktop_and_stops_it_by_its_init(user: Site, options: str) -> None:
    started = user.place / "started"
    started.unlink(missing_ok=True)
    user.output("sh", "-c", START.replace("OPTIONS", options).replace("> started", f"> {started}"))
    wait_until(lambda: started.exists() and sleepers(user) == 1, 30)
    assert started.read_text() == "started desk in debian\n"
    user.output("sh", "-c", STOP)
    wait_until(lambda: not sleepers(user), 30)
    wait_until(lambda: user.call("tmux", "-S", "socket", "ls").returncode != 0, 30)


@pytest.mark.parametrize(
    "line",
    [
        "singularity shell d.sif",
        "singularity exec d.sif bash -s -- a",
        "singularity exec d.sif bash -l",
        "singularity shell -s /bin/bash d.sif",
        "apptainer exec --cleanenv d.sif sh",
    ],
)
def test_a_remote_editor_types_its_script(user: Site, line: str) -> None:
    script = 'echo "in $(. /etc/os-release; echo $ID)"; exit 5'
    done = user.call("sh", "-c", f"echo '{script}' | {line}")
    assert (done.returncode, done.stdout) == (5, "in debian\n"), done.stderr


def test_what_slurms_newer_oci_conf_calls(user: Site) -> None:
    user.output("singularity", "build", "--sandbox", "root", "d.sif")
    line = ("singularity", "exec", "--userns", user.place / "root", "cat", "/etc/os-release")
    assert "ID=debian" in user.output(*line)
    assert "ID=debian" in user.output(*line[:3], "d.sif", *line[4:])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_kernel_is_interrupted_and_ended(user: Site, number: signal.Signals) -> None:
    """As a notebook server does with argv ["singularity", "exec", …]."""
    script = (
        f"trap 'echo got it; exit 3' {number.name[3:]}; echo ready; while :; do sleep 0.1; done"
    )
    words = user.person.words("sh", "-c", 'exec "$@"', "sh", "singularity", "exec", "d.sif")
    with subprocess.Popen(
        [*words, "sh", "-c", script], cwd=user.place, env=user.variables(), stdout=subprocess.PIPE
    ) as kernel:
        assert kernel.stdout
        assert kernel.stdout.readline() == b"ready\n"
        kernel.send_signal(number)
        assert kernel.stdout.read() == b"got it\n"
    assert kernel.returncode == 3
