"""An instance: one process that keeps its namespaces open.

It is process 1 of them, so when it ends the kernel ends all others; the kernel also reaps
orphans, as it ignores SIGCHLD (wait(2), NOTES). It listens under two names, the instance's and
the image's, and sends its description to each that connects: rendezvous.py.
"""

import _signal  # type: ignore[import-not-found]  # built in; signal itself is dear
import contextlib
import os
import select
import time

from singrun import syscalls, title
from singrun.errors import RunError, say, spelling
from singrun.images.image import Image
from singrun.namespaces import meeting_places, rendezvous
from singrun.request import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_GRACE, _PAUSE = 5.0, 0.02  # seconds


class Holder:
    """The process of a new instance; namespaces and mounts are prepared as for a program."""

    def __init__(self, program: Program, image: Image, home: str, *, contain: bool) -> None:
        name = self._name = str(program.instance)
        self._image = image.path
        instance_name = rendezvous.take(f"instance-{name}")
        if not instance_name:
            remedy = f"Stop it (singrun stop {name}), or name another: singrun start IMAGE NAME"
            raise RunError(f"There is an instance {name} already", remedy=remedy)
        image_name = rendezvous.take(meeting_places.of_image(os.fstat(image.fd)))
        self._names = [each for each in (instance_name, image_name) if each]
        state = rendezvous.image_state(os.fstat(image.fd), writable=image.writable)
        self.marker = rendezvous.marker(name, state)
        contained = "contained" * contain
        words = (name, image.path, home, str(int(time.time())), state, contained, program.logs)
        self._description = "\0".join(words).encode("utf-8", "surrogateescape")
        self._null = os.open(os.devnull, os.O_RDWR)
        self._output = [self._open_log(f"{program.logs}.{kind}") for kind in ("out", "err")]
        self._pid_file = -1
        if program.pid_file:
            self._pid_file = os.open(program.pid_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._reading, self._writing = os.pipe()

    def fork(self, trees: list[int]) -> None:
        """Fork: return in the child, the instance; the parent exits once that is ready."""
        syscalls.unshare(syscalls.CLONE_NEWPID)
        child = os.fork()
        if child:
            for fd in (self._writing, *trees):
                os.close(fd)
            is_ready = bool(os.read(self._reading, 1))
            for name in self._names:
                name.close(leave=is_ready)
            if is_ready:
                if self._pid_file >= 0:
                    os.write(self._pid_file, b"%d\n" % child)
                if spelling():
                    say("instance started successfully", "INFO")
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, _signal.SIGKILL)

    def enter(self, *, own_pids: bool) -> None:
        """Return in the process that becomes the instance's script; process 1 never returns.

        own_pids: True, as an instance has PIDs of its own: for the signature of Waiter.enter().
        """
        assert own_pids
        _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # before a script can end
        if not os.fork():
            # A signal that is ignored stays so over execve(2), and the script would find no child
            # to wait for: wait(2), NOTES.
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
            os.setsid()
            for fd, place in ((self._null, 0), (self._output[0], 1), (self._output[1], 2)):
                os.dup2(fd, place)
            os.closerange(3, _beyond())
            return
        title.show(f"singrun: instance {self._name} of {self._image}")
        os.setsid()
        os.chdir("/")
        for number in (_signal.SIGINT, _signal.SIGHUP, _signal.SIGPIPE):
            _signal.signal(number, _signal.SIG_IGN)
        _signal.signal(_signal.SIGTERM, _end)
        poller = select.poll()
        sockets = {name.fd for name in self._names}
        for name in self._names:
            name.become_peer()
            poller.register(name.fd, select.POLLIN)
        _close_all_but(self._null, {*sockets, self._writing})
        # Until here it ends with a launch that is killed; from now on it has to outlive the launch.
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
        os.write(self._writing, b"!")
        os.close(self._writing)
        while True:
            for fd, _ in poller.poll():
                self._send_description(fd)

    def _open_log(self, log: str) -> int:
        """Open a log of the script's output; without one, warn and give /dev/null."""
        try:
            os.makedirs(os.path.dirname(log), 0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            return os.open(log, flags, 0o644)
        except OSError as error:
            say(f"{log} is not written: {error.strerror}")
            return os.dup(self._null)

    def _send_description(self, fd: int) -> None:
        with contextlib.suppress(OSError):  # whoever asked has gone
            connection = syscalls.accept(fd)
            try:
                os.write(connection, self._description)
            finally:
                os.close(connection)


def _close_all_but(null: int, used: set[int]) -> None:
    """Close the caller's descriptors but those in use; readers of its pipes wait for that."""
    for fd in range(3):
        os.dup2(null, fd)
    before = 3
    for fd in [*sorted(used), _beyond()]:
        os.closerange(before, fd)
        before = fd + 1


def _beyond() -> int:
    """Return a number above all descriptors: Python 3.9 closes 2**30 one by one, in 4 minutes."""
    try:
        return max(map(int, os.listdir("/proc/self/fd"))) + 1
    except (OSError, ValueError):  # the image has no proc(5)
        return os.sysconf("SC_OPEN_MAX")


def _end(_number: int, _frame: object) -> "NoReturn":
    """Send SIGTERM to all processes in here, wait, and end; the kernel kills the others."""
    try:
        os.kill(-1, _signal.SIGTERM)
        until = time.monotonic() + _GRACE
        while time.monotonic() < until:
            os.kill(-1, 0)
            time.sleep(_PAUSE)
    except ProcessLookupError:
        pass  # nobody else is here
    os._exit(0)
