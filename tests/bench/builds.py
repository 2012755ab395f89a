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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from tests.bench.host import shared_directory

SINGBUILD = (sys.executable, "-m", "singbuild")
Build = Callable[..., "subprocess.CompletedProcess[str]"]
DIRECTORIES = ("SINGBUILD_CACHEDIR", "SINGBUILD_TMPDIR", "XDG_STATE_HOME", "XDG_CACHE_HOME")
"""Variables that name where a build keeps something."""


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
        result = [*self.directory.glob("singbuild-*"), *self.directory.glob(".a.img.*")]
        return [path.name for path in result]


@contextlib.contextmanager
def building_user(name: str) -> Iterator[User]:
    """Give an account a directory, for the time of a with-block; skip where it cannot build."""
    with shared_directory() as directory:
        result = User(name, directory)
        if not _can_start(result):
            pytest.skip("an ordinary user cannot read this checkout or its Python")
        yield result


_able: dict[tuple[str, int], bool] = {}


def _can_start(user: User) -> bool:
    """Whether a user can start singbuild; it is tried once for each user, not in each test."""
    key = (user.name, user.uid)
    if key not in _able:
        _able[key] = user.start("--version").wait() == 0
    return _able[key]


class Builder:
    """Somebody who builds in one of the privilege modes: tests.bench.privilege_modes has them.

    become: words that execute a command as that somebody; container: words that do in a container,
    which has the same paths.
    """

    def __init__(self, mode: str, directory: Path) -> None:
        self.mode, self.directory = mode, directory
        self.become: tuple[str, ...] = ()
        self.container: list[str] = []
        self.uid = self.gid = 0

    def own_directory(self, name: str) -> Path:
        """Make a directory of the builder's."""
        path = self.directory / name
        path.mkdir()
        self.adopt(path)
        return path

    def adopt(self, path: Path) -> None:
        """Let what a test wrote be the builder's own: input that is closed to others."""
        for each in [path, *path.rglob("*")] if self.uid else ():
            with contextlib.suppress(FileNotFoundError):
                if each.lstat().st_uid == 0:
                    os.chown(each, self.uid, self.gid, follow_symlinks=False)

    def words(
        self, *words: str | Path, cwd: Path, on_terminal: bool = False, umask: int = -1
    ) -> list[str]:
        """The command line of ``singbuild`` with these words.

        A container has neither a terminal nor the caller's umask unless its engine is told.
        """
        argv = [*SINGBUILD, *map(str, words)]
        if not self.container:
            return [*self.become, *argv]
        *options, rootfs, root = self.container
        options += ["--tty"] * on_terminal + [f"--umask={umask:04o}"] * (umask >= 0)
        become = [*options, f"--workdir={cwd}", rootfs, root]
        if (escaped := [*map(_escaped, argv)]) != argv:
            # The engine writes them as JSON, which has no bytes: bash(1), ${parameter@operator}.
            become += ["bash", "-c", 'exec "${@@E}"', "bash"]
        return [*become, *escaped]

    def start(self, *words: str | Path, cwd: Path, **more: Any) -> subprocess.Popen[Any]:
        """Start ``singbuild``; what lies in its directory is made the builder's before."""
        self.adopt(cwd)
        return subprocess.Popen(self.words(*words, cwd=cwd), cwd=cwd, **more)

    def run(self, *words: str | Path, cwd: Path, **more: Any) -> subprocess.CompletedProcess[Any]:
        """Run ``singbuild`` as subprocess.run does."""
        self.adopt(cwd)
        argv = self.words(*words, cwd=cwd, umask=more.get("umask", -1))
        return subprocess.run(argv, cwd=cwd, **more)

    def send(self, process: subprocess.Popen[Any], number: signal.Signals, cwd: Path) -> None:
        """Send a signal to ``singbuild`` itself; Podman passes on those that it can catch."""
        if not self.container or number != signal.SIGKILL:
            process.send_signal(number)
            return
        parents = _processes(process, cwd)
        os.kill(next(pid for pid in parents if parents[pid] not in parents), number)

    def run_killing_worker(self, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a build, and kill the process that works (namespace.py) when a section sleeps."""
        process = self.start(
            *words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout
        next(line for line in process.stdout if "+ sleep 60" in line)
        parents = _processes(process, cwd)
        os.kill(max(parents, key=lambda pid: _depth(pid, parents)), signal.SIGKILL)
        out, errors = process.communicate()
        return subprocess.CompletedProcess(words, process.returncode, out, errors)


def _escaped(word: str) -> str:
    r"""Return a word with a byte that is no text as \\xHH, and a backslash as two."""
    return os.fsencode(word.replace("\\", r"\\")).decode(errors="backslashreplace")


def _depth(pid: int, parents: Mapping[int, int]) -> int:
    return 1 + _depth(parents[pid], parents) if pid in parents else 0


def _processes(process: subprocess.Popen[Any], cwd: Path) -> dict[int, int]:
    """The parents of a build's processes: of its own, and of those forked from it that work."""
    result = {}
    words = cast("list[str]", process.args)
    needle = ("\0".join(words[words.index(SINGBUILD[0]) :]) + "\0").encode()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            same = (path / "cmdline").read_bytes() == needle
            if same and (path / "cwd").readlink() == cwd:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                result[int(path.name)] = int(fields[1])
    return result


def killed_in(
    phase: str,
    number: signal.Signals,
    words: list[str | Path],
    cwd: Path,
    delay: float = 0.2,
    builder: Builder | None = None,
) -> int:
    """Start a build, send it a signal a little into a phase, return its status."""

    def has_begun(event: Mapping[str, Any]) -> bool:
        if event["event"] != "phase" or event["name"] != phase:
            return False
        time.sleep(delay)
        return True

    return killed_when(has_begun, number, words, cwd, builder)


def killed_when(
    is_now: Callable[[Mapping[str, Any]], bool],
    number: signal.Signals,
    words: list[str | Path],
    cwd: Path,
    builder: Builder | None = None,
) -> int:
    """Start a build, send it a signal at the first event that is_now picks, return its status."""
    builder = builder or Builder("root", cwd)
    process = builder.start(
        *("build", "--json", *words),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        if is_now(json.loads(line)):
            builder.send(process, number, cwd)
            break
    process.stdout.read()
    process.stdout.close()
    status = process.wait()
    # A container's init ends with this status where the signal ended its child.
    return -number if builder.container and status == 128 + signal.SIGKILL else status
