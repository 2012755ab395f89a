"""Builds in the tests: the real command, by root and by an ordinary user, killed in any phase."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench.host import shared_directory

SINGBUILD = (sys.executable, "-m", "singbuild")
Build = Callable[..., "subprocess.CompletedProcess[str]"]


class User:
    """A real ordinary user with a directory of its own that holds scratch, cache and images."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        entry = pwd.getpwnam(name)
        self.directory = directory
        os.chown(directory, entry.pw_uid, entry.pw_gid)
        names = ("SINGBUILD_TMPDIR", "SINGBUILD_CACHEDIR", "XDG_STATE_HOME", "HOME")
        self.env = {"PATH": os.environ["PATH"]} | dict.fromkeys(names, str(directory))
        self.uid, self.gid = entry.pw_uid, entry.pw_gid

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start singbuild as this user; the recipe "-" comes from standard input."""
        return subprocess.Popen(
            [*SINGBUILD, *words],
            cwd=self.directory,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **self.become(),
        )

    def become(self) -> dict[str, Any]:
        """What makes a child of root's this user; a user who runs the tests is it already."""
        if os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": [self.gid]}

    def left(self) -> list[str]:
        """What lies in the scratch and beside the target."""
        found = [*self.directory.glob("singbuild-*"), *self.directory.glob(".a.img.*")]
        return [path.name for path in found]


@contextlib.contextmanager
def building_user(name: str) -> Iterator[User]:
    """Give an account a directory, for the time of a with-block; skip where it cannot build."""
    with shared_directory() as directory:
        found = User(name, directory)
        if found.start("--version").wait():
            pytest.skip("an ordinary user cannot read this checkout or its Python")
        yield found


def killed_in(
    phase: str, number: signal.Signals, words: list[str | Path], cwd: Path, delay: float = 0.2
) -> int:
    """Start a build, send it a signal a little into a phase, return its status."""
    process = subprocess.Popen(
        [*SINGBUILD, "build", "--json", *map(str, words)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ,
    )
    assert process.stdout
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "phase" and event["name"] == phase:
            time.sleep(delay)
            process.send_signal(number)
            break
    process.stdout.read()
    process.stdout.close()
    return process.wait()
