"""The one door to the host's programs.

A program gets no standard input, the C locale and an explicit environment; its
output is passed on line by line and its last lines are kept for the error. A
program that leaves daemons behind does not make the caller wait: output is
read until the program itself has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import selectors
import shlex
import shutil
import subprocess
import sys
import tempfile
import termios
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from singbuild.errors import HostError

Word = str | os.PathLike[str]
TAIL_LINES = 20
LONGEST_LINE = 1 << 16  # bytes that are kept of a line
_EXECUTE = "import json, os, sys; os.execve(*json.load(os.fdopen(int(sys.argv[1]))))"
LAST_BYTES = 1 << 20  # bytes that are read once the program has ended


@dataclass(frozen=True)
class Completed:
    """How a program ended. status: as the shell's ``$?``; tail: its last lines of output."""

    argv: tuple[str, ...]
    status: int
    tail: tuple[str, ...]

    @property
    def pasted(self) -> str:
        """The command as it can be pasted into a shell."""
        return shlex.join(self.argv)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what a host program sees: the caller's PATH and proxies, the C locale, ``extra``."""
    names = ("PATH", "HOME", "TMPDIR", "USER", "LOGNAME", "SOURCE_DATE_EPOCH")
    passed = {k: v for k, v in os.environ.items() if k in names or k.lower().endswith("_proxy")}
    path = passed.get("PATH", os.defpath)
    # Debian's ordinary users have no sbin on their PATH; mke2fs and chroot live there.
    missing = [d for d in ("/usr/sbin", "/sbin") if d not in path.split(":")]
    return passed | {"PATH": ":".join([path, *missing]), "LC_ALL": "C.UTF-8"} | dict(extra or {})


def check_program(program: str, env: Mapping[str, str], package: str = "") -> str:
    """Return the path of a host program on the PATH of ``env``. Raises HostError without one."""
    where = shutil.which(program, path=env.get("PATH", os.defpath))
    if where is None:
        raise _not_found(program, package)
    return where


def which(program: str) -> str | None:
    """Return the path of a host program as ``run`` would find it, or None."""
    return shutil.which(program, path=environment()["PATH"])


def call(
    argv: Sequence[Word],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    package: str = "",
    own_session: bool = False,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Execute a program and return how it ended, whatever its status.

    env: the complete environment (default: ``environment()``); on_line: gets
    each line of stdout and stderr, as they come, without the newline; package: the
    Debian package that has the program; own_session: keep it from the caller's terminal;
    pass_fds: descriptors that it gets besides the standard ones.
    Raises HostError when the program does not exist or cannot be executed.
    """
    words = tuple(os.fspath(word) for word in argv)
    full_env = environment() if env is None else dict(env)
    path = check_program(words[0], full_env, package)
    process = subprocess.Popen(
        words,
        executable=path,
        env=full_env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=own_session,
        pass_fds=pass_fds,
    )
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        for line in _lines(process):
            tail.append(line)
            if on_line:
                on_line(line)
        status = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Completed(words, status if status >= 0 else 128 - status, tuple(tail))


def feed(
    argv: Sequence[Word],
    pieces: Iterable[bytes],
    *,
    env: Mapping[str, str] | None = None,
    package: str = "",
    pass_fds: Sequence[int] = (),
) -> None:
    """Execute a program with ``pieces`` on its standard input. Raises HostError when it fails.

    What it prints is kept for that error. What the iterator raises ends the program.
    """
    words = tuple(os.fspath(word) for word in argv)
    full_env = environment() if env is None else dict(env)
    path = check_program(words[0], full_env, package)
    # A file, not a pipe: the program would wait for its reader, while we wait for it to read on.
    with tempfile.TemporaryFile() as error_file:
        process = subprocess.Popen(
            words,
            executable=path,
            env=full_env,
            stdin=subprocess.PIPE,
            stdout=error_file,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
        )
        assert process.stdin
        try:
            # Who reads no further says why by its status; close() writes what is buffered, and
            # fails again.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.writelines(pieces)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            status = process.wait()
        except BaseException:
            process.kill()  # first: closing writes what is buffered, to a program that may not read
            process.wait()
            with contextlib.suppress(BrokenPipeError):  # it would hide what the iterator raised
                process.stdin.close()
            raise
        error_file.seek(max(0, error_file.tell() - LONGEST_LINE))
        lines = error_file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
    checked(Completed(words, status if status >= 0 else 128 - status, tuple(lines)))


def interactive(argv: Sequence[Word], *, env: Mapping[str, str]) -> None:
    """Execute a program on a terminal of its own that is shown on ours, until it ends.

    So it has its own job control, and Ctrl-C is its own. Standard input and output must be
    a terminal. env: the complete environment. Raises HostError as ``call`` does.
    """
    words = [os.fspath(word) for word in argv]
    path = check_program(words[0], env)

    def read(terminal: int) -> bytes:
        size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)  # it follows when ours changes
        return os.read(terminal, 1 << 12)

    file = os.memfd_create("singbuild", 0)  # others see arguments; and it is not close-on-exec
    try:
        os.write(file, json.dumps([path, words, dict(env)]).encode())
        os.lseek(file, 0, os.SEEK_SET)
        pty.spawn([sys.executable, "-IS", "-c", _EXECUTE, str(file)], read)
    finally:
        os.close(file)


def attended(argv: Sequence[Word], *, env: Mapping[str, str], package: str = "") -> None:
    """Execute a program that may ask the user: it inherits standard input and error.

    env: the complete environment. Raises HostError as ``run`` does.
    """
    words = tuple(os.fspath(word) for word in argv)
    path = check_program(words[0], env, package)
    done = subprocess.run(
        words, executable=path, env=dict(env), stdout=subprocess.DEVNULL, check=False
    )
    status = done.returncode if done.returncode >= 0 else 128 - done.returncode
    checked(Completed(words, status, ("Its own words stand above.",)))


def run(
    argv: Sequence[Word],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    package: str = "",
) -> Completed:
    """Execute a program as ``call`` does; a status other than 0 raises HostError."""
    return checked(call(argv, env=env, cwd=cwd, on_line=on_line, package=package))


def checked(done: Completed) -> Completed:
    """Return how a program ended; HostError for a status other than 0."""
    if done.status:
        raise HostError(
            f"{Path(done.argv[0]).name} failed with status {done.status}",
            why="\n".join(done.tail),
            remedy=f"The command was: {done.pasted}",
        )
    return done


def output(argv: Sequence[Word], *, package: str = "") -> str:
    """Execute a program and return what it prints; a status other than 0 raises HostError."""
    lines: list[str] = []
    run(argv, on_line=lines.append, package=package)
    return "\n".join(lines)


@contextlib.contextmanager
def reading(argv: Sequence[Word], text: bytes = b"", *, package: str = "") -> Iterator[IO[bytes]]:
    """Execute a program with ``text`` as its standard input, and yield its standard output.

    Raises HostError when it fails, unless the with-block stops reading before its end.
    """
    words = tuple(os.fspath(word) for word in argv)
    full_env = environment()
    path = check_program(words[0], full_env, package)
    # Files, not pipes: a reader of one pipe may wait for a program that waits for the reader of
    # another one.
    with tempfile.TemporaryFile() as text_file, tempfile.TemporaryFile() as errors:
        text_file.write(text)
        text_file.seek(0)
        process = subprocess.Popen(
            words,
            executable=path,
            env=full_env,
            stdin=text_file,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert process.stdout
        try:
            with process.stdout as pipe:
                yield pipe
                is_read = pipe.peek(1) == b""  # type: ignore[attr-defined]  # it is buffered
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        errors.seek(max(0, errors.tell() - LONGEST_LINE))
        lines = errors.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
    if is_read:
        checked(Completed(words, status if status >= 0 else 128 - status, tuple(lines)))


def version(program: str) -> str:
    """Return what a program prints for --version; "" when it knows no such option.

    It gets a home in which nothing can be made: dnf would make an rpm database.
    """
    lines: list[str] = []
    env = environment({"HOME": "/dev/null"})
    done = call([program, "--version"], env=env, on_line=lines.append)
    if done.status:  # dnf tells, and then fails where it may not write its log
        lines = [line for line in lines if line[:1].isdigit()]
    return "\n".join(line for line in lines if not line.startswith("error: "))


def _not_found(program: str, package: str) -> HostError:
    return HostError(
        f"the program {program!r} is not on this host",
        remedy=f"Install the package {package} (apt-get install {package})." if package else "",
    )


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield lines until the program has ended, even if a daemon still holds the pipe."""
    assert process.stdout
    with process.stdout as pipe, selectors.DefaultSelector() as selector:
        ended = os.pidfd_open(process.pid)
        try:
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe.fileno(), selectors.EVENT_READ)
            selector.register(ended, selectors.EVENT_READ)
            rest = b""
            allowance = LAST_BYTES  # to read after the end: a daemon may go on for ever
            while allowance > 0:
                ready = {key.fd for key, _ in selector.select()}
                chunk = _read(pipe.fileno())
                if chunk == b"" and ended not in ready:
                    selector.unregister(pipe.fileno())  # closed: only the end is left to wait for
                    selector.select()
                if not chunk and (chunk == b"" or ended in ready):
                    break
                if ended in ready:
                    allowance -= len(chunk or b"")
                *whole, rest = (rest + (chunk or b"")).split(b"\n")
                yield from map(_text, whole)
                # A progress bar, or no text at all: only the last state of the line is of use.
                rest = rest[rest.rfind(b"\r", 0, -1) + 1 :][-LONGEST_LINE:]
            if rest:
                yield _text(rest)
        finally:
            os.close(ended)


def _read(fd: int) -> bytes | None:
    """Return what is there, b"" at the end, None when nothing is there yet."""
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return None


def _text(line: bytes) -> str:
    """One line as shown: of progress bars drawn with carriage returns, the last state."""
    return line.rstrip(b"\r").rsplit(b"\r", 1)[-1].decode(errors="replace")
