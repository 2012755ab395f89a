"""What the kernel may say besides yes and no: again, interrupted, and that it cannot tell."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from singrun import syscalls
from singrun.errors import RunError
from singrun.mounts.root import Root
from tests.bench.host import wait_until


@contextlib.contextmanager
def renaming(directory: Path) -> Iterator[None]:
    """Rename a file to and fro in another process, as fast as that can."""
    (directory / "a").touch()
    words = "import os\nwhile True: os.rename('a', 'b'); os.rename('b', 'a')"
    with subprocess.Popen([sys.executable, "-c", words], cwd=directory) as child:
        try:
            yield
        finally:
            child.kill()


def test_a_link_with_dots_is_followed_while_others_rename(tmp_path: Path) -> None:
    """The kernel says EAGAIN when anything on the host was renamed or mounted: openat2(2)."""
    (tmp_path / "run/munge").mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("../run")
    (tmp_path / "moving").mkdir()
    root = Root(str(tmp_path))
    with renaming(tmp_path / "moving"):
        wait_until((tmp_path / "moving/b").exists)
        for _ in range(20000):
            os.close(root.open("/var/run/munge", os.O_PATH))


def test_a_signal_does_not_end_a_system_call(tmp_path: Path) -> None:
    """open(2) of a FIFO waits for its other end; a signal with a handler interrupts that."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    signals: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: signals.append(number))
    writer = threading.Timer(0.3, lambda: os.close(os.open(fifo, os.O_RDWR)))
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    root = os.open(tmp_path, os.O_PATH)
    try:
        writer.start()
        os.close(syscalls.openat2(root, "fifo", os.O_RDONLY, syscalls.RESOLVE_IN_ROOT))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        writer.join()
        os.close(root)
    assert signals


def test_what_cannot_be_looked_at_is_not_taken_for_absent(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/file").write_text("x")
    (tmp_path / "etc/loop").symlink_to("loop")
    root = Root(str(tmp_path))
    assert root.has("/etc/file")
    for name in ("/etc/none", "/etc/file/below", "/etc/loop"):
        assert not root.has(name)
        assert root.read(name) == b""
    with pytest.raises(RunError, match="Cannot look at /etc/x"):
        root.has("/etc/" + "x" * 300)  # ENAMETOOLONG stands for all that is no answer
