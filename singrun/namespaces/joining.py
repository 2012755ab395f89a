"""Ranks of one job step on one node: the first sets up, the others enter its namespaces.

The first holds a name (rendezvous.py) until all is mounted. The others wait for that, and enter
its namespaces if the mounts have the set's marker. Later ranks search the user's processes for one
of the set, which so lives as long as any process in it.
"""

import os

from singrun import syscalls
from singrun.environment.variables import Override
from singrun.errors import RunError, say
from singrun.identity import Caller
from singrun.images.image import Image
from singrun.mounts.launch_table import Table
from singrun.namespaces import rendezvous
from singrun.namespaces.entering import ProgramNamespaces
from singrun.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_JOBS = [
    *("SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"),
    *("PMI_JOBID", "FLUX_JOB_ID", "PALS_APID"),
]
_HOST = ("mnt", "user", "pid")
_PATIENCE, _PAUSE = 30.0, 0.001  # seconds to wait for who sets up, and between two attempts


class RankSet:
    """The launches that share one set of namespaces, which has a marker. pid: one of them.

    The marker is a hash of all that must be the same: user, job step, image as it is now, table of
    mounts, options, the host's namespaces.
    """

    def __init__(
        self,
        request: Request,
        image: Image,
        caller: Caller,
        table: Table,
        overrides: list[Override],
    ) -> None:
        from _blake2 import blake2b  # hashlib is slow to import

        status = os.fstat(image.fd)
        image_options = {
            **vars(request.image),
            "path": "",
            "fetch": False,
            "no_https": False,
        }  # in ``image``
        mounts = {**vars(request.mounts), "binds": ""}  # in ``table``
        isolation_options = (vars(request.isolation), vars(request.hardware))
        options = [image_options, mounts, *isolation_options, request.program.shell]
        words = [
            [os.environ.get(name) for name in _JOBS] if not request.isolation.join else [],
            # In another mount namespace of the host the same words of the table mean other
            # directories.
            [os.readlink(f"/proc/self/ns/{name}") for name in _HOST],
            [os.geteuid(), caller.uid, caller.gid, caller.groups, caller.passwd_line(caller.home)],
            [image.kind, image.stamp, status.st_dev, status.st_ino],
            [(each.name, each.value) for each in overrides],
            [row.describe() for row in table.rows],
            options,
        ]
        key = blake2b(repr(words).encode(errors="replace"), digest_size=16).hexdigest()
        self.marker = f"singrun-set-{key}"
        self._extra = ["ipc"] * request.isolation.ipc + ["uts"] * request.isolation.uts
        self._extra += ["net"] * request.isolation.net
        self._word = f"set-{key}"
        self._name: rendezvous.Name | None = None
        self._is_inside = False  # of the others' namespaces, or some of them
        self._debug = request.debug
        self.pid = os.readlink("/proc/self")

    def enter(self) -> bool:
        """Enter the set's namespaces; return False when this process has to set them up.

        Then other ranks wait for it, unless they cannot be reached or it waited for too long.
        """
        import time  # built in

        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            connection, pid = rendezvous.reach(self._word, _PATIENCE)
            try:
                if connection >= 0:
                    # It sends nothing; its end tells that it has set up, entered, or died.
                    rendezvous.read_all(connection)
                    if self._enter(pid):
                        return True
                else:
                    self._name = rendezvous.take(self._word)
                    if self._name:
                        return self._enter_any()
            except OSError:
                pass  # the other process has ended, or is stuck: the next attempt finds another
            except RunError as error:
                if self._is_inside:
                    raise
                if self._debug:
                    say(str(error), "DEBUG")
                return False
            time.sleep(_PAUSE)
        return False

    def release(self) -> None:
        """Let other ranks enter, once all is mounted."""
        make_inspectable()
        if self._name:
            self._name.close()
            self._name = None

    def _enter_any(self) -> bool:
        """Enter the namespaces of any process of the set."""
        uid, foreign = os.geteuid(), {os.readlink("/proc/self/ns/mnt")}
        for pid in _processes():
            try:
                if uid and os.stat(f"/proc/{pid}").st_uid != uid:
                    continue
                namespace = os.readlink(f"/proc/{pid}/ns/mnt")
                if namespace not in foreign and self._enter(pid):
                    self.release()
                    return True
                foreign.add(namespace)
            except OSError:
                continue  # it has ended, or is another's after all
        return False

    def _enter(self, pid: int) -> bool:
        """Enter the namespaces of process ``pid``; return False if it is not of the set."""
        others = ProgramNamespaces(pid)
        try:
            if not others.has_marker(self.marker) or not others.are_ours():
                return False
            self._join(others, pid)
        finally:
            others.close()
        make_inspectable()
        self.pid = str(pid)
        return True

    def _join(self, others: ProgramNamespaces, pid: int) -> None:
        if self._debug:
            say(f"joins the namespaces of process {pid}", "DEBUG")
        try:
            others.enter_owner(*self._extra)
            others.enter_mounts()
        except OSError as error:
            self._is_inside = others.is_inside
            why, remedy = f"{error.strerror}.", "Use --no-join."
            raise RunError("Cannot join the other ranks", why=why, remedy=remedy) from None


def _processes() -> "Iterator[int]":
    """Yield siblings, oldest first, as they are ranks too; then all processes, youngest first."""
    parent = os.getppid()
    try:
        # A kernel without CONFIG_PROC_CHILDREN has no such file: proc(5).
        with open(f"/proc/{parent}/task/{parent}/children") as file:
            siblings = file.read().split()
    except OSError:
        siblings = []
    yield from map(int, siblings)
    yield from sorted((int(name) for name in os.listdir("/proc") if name.isdecimal()), reverse=True)


def make_inspectable() -> None:
    """Let the user's other processes open /proc/PID/ns of this one: prctl(2), PR_SET_DUMPABLE.

    A change of ids clears the flag, and execve(2) sets it again; ranks that looked in between
    would not find this process.
    """
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
