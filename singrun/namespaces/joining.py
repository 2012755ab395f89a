"""Ranks of one job step on one node: the first sets up, the others enter its namespaces.

Nothing is written down anywhere. Who sets up holds a name (rendezvous.py) until its program
starts; the others wait for that, and then look among the user's processes for one whose mounts
say that they are of the same set. So the set lives as long as any process in it, whichever, and
what ends by whatever signal leaves nothing behind.
"""

import os

from singrun import syscalls
from singrun.environment.variables import Winner
from singrun.errors import RunError, say
from singrun.identity import Caller
from singrun.images.image import Image
from singrun.mounts.shared import Table
from singrun.namespaces import rendezvous
from singrun.namespaces.leaving import Others
from singrun.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Of these one is set for every rank: Slurm, Open MPI, PMIx, MPICH and its kin, Flux, PALS.
_RANKS = [
    *("SLURM_STEP_ID", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MPI_LOCALRANKID"),
    *("FLUX_TASK_RANK", "PALS_RANKID"),
]
# How many there are on this node; the innermost launcher's word is first.
_MANY = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE"]
_JOBS = [
    *("SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"),
    *("PMI_JOBID", "FLUX_JOB_ID", "PALS_APID"),
]
# What each rank has for itself.
_OWN = [
    *("verb", "image", "arguments", "directory", "why", "clean_environment", "variables"),
    *("debug", "plan", "fetch", "join", "no_join"),
]
_HOST = ("mnt", "user", "pid")
_PATIENCE, _PAUSE = 1000, 0.001  # attempts, and seconds between those that reach nobody


def wanted(request: Request) -> bool:
    """Whether to share namespaces: as the options say, else where the launcher is a job's."""
    alone = request.pid or request.writable or request.as_caller
    if request.join and alone:
        remedy = "Leave one of them out."
        what = "Cannot combine --join with --pid, --containall, --writable or --as-caller"
        raise RunError(what, remedy=remedy)
    if request.join or request.no_join or alone:
        return request.join
    many = next((os.environ[name] for name in _MANY if name in os.environ), "")
    return many.partition("(")[0] != "1" and any(name in os.environ for name in _RANKS)


class Set:
    """All launches that may share one set of namespaces, told from others by ``key``.

    One user, one job step, one image as it is now, one table of mounts, one set of options,
    one set of the host's namespaces.
    """

    def __init__(
        self, request: Request, image: Image, caller: Caller, table: Table, winning: list[Winner]
    ) -> None:
        from _blake2 import blake2b  # hashlib is slow to import

        status = os.fstat(image.fd)
        options = [pair for pair in vars(request).items() if pair[0] not in _OWN]
        words = [
            [os.environ.get(name) for name in _JOBS] if not request.join else [],
            [os.readlink(f"/proc/self/ns/{name}") for name in _HOST],
            [os.geteuid(), caller.uid, caller.gid, caller.groups, caller.passwd_line(caller.home)],
            [image.kind, image.stamp, status.st_dev, status.st_ino],
            [(each.name, each.value) for each in winning],
            [row.describe() for row in table.rows],
            options,
        ]
        self.key = blake2b(repr(words).encode(errors="replace"), digest_size=16).hexdigest()
        self._extra = ["ipc"] * request.ipc + ["uts"] * request.uts
        self._name = rendezvous.name("set", self.key)
        self._debug = request.debug

    def enter(self) -> bool:
        """Enter the set's namespaces; False: they are to be set up, and others wait for us."""
        import time  # built in

        for _ in range(_PATIENCE):
            lock = rendezvous.take(self._name)
            if lock >= 0:
                rendezvous.let_in(lock)
                entered = self._enter_any()
                if entered:
                    os.close(lock)
                return entered
            connection, pid = rendezvous.reach(self._name)
            if connection < 0:  # who has the name does not answer yet; or it is a stranger
                time.sleep(_PAUSE)
                continue
            rendezvous.heard(connection)  # nothing; it has set up, or entered, or died
            try:
                if self._has(pid) and self._enter(pid):
                    return True
            except OSError:
                continue  # it has ended
        return False

    def mark(self, stage: str, proc: int) -> str:
        """Return a new directory in ``stage`` whose files, bound inside, say that it is this set.

        proc: of /proc/self. A copy of the namespace, which a program inside may make, is none.
        """
        place = f"{stage}/set"
        os.mkdir(place)
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        source = self._source(os.readlink("ns/mnt", dir_fd=proc))
        syscalls.mount(source, place, "tmpfs", flags, "mode=0755")
        return place

    def _source(self, namespace: str) -> str:
        return f"singrun-{self.key}-{namespace[5:-1]}"  # mnt:[NUMBER]

    def _enter_any(self) -> bool:
        """Enter by way of any process of the set."""
        uid, foreign = os.geteuid(), {os.readlink("/proc/self/ns/mnt")}
        for pid in _processes():
            try:
                if uid and os.stat(f"/proc/{pid}").st_uid != uid:
                    continue
                namespace = os.readlink(f"/proc/{pid}/ns/mnt")
                if namespace in foreign:
                    continue
                if not self._has(pid):
                    foreign.add(namespace)
                elif self._enter(pid):
                    return True
            except OSError:
                continue  # it has ended, or is another's after all
        return False

    def _has(self, pid: int) -> bool:
        """Whether the mounts of process ``pid`` are the set's; OSError: it cannot be seen."""
        marker = f" tmpfs {self._source(os.readlink(f'/proc/{pid}/ns/mnt'))} ".encode()
        with open(f"/proc/{pid}/mountinfo", "rb", buffering=0) as file:
            return marker in (file.readall() or b"")

    def _enter(self, pid: int) -> bool:
        """Enter the namespaces of process ``pid``; False: it is on its way, or made others."""
        others = Others(pid)
        if not others.are_ours():
            others.close()
            return False
        if self._debug:
            say(f"joins the namespaces of process {pid}")
        try:
            others.enter_owner(*self._extra)
            others.enter_mounts()
        except OSError as error:
            why, remedy = f"{error.strerror}.", "Use --no-join."
            raise RunError("Cannot join the other ranks", why=why, remedy=remedy) from None
        show()
        return True


def _processes() -> "Iterator[int]":
    """Yield siblings, oldest first, as they are ranks too; then all processes, youngest first."""
    parent = os.getppid()
    try:
        with open(f"/proc/{parent}/task/{parent}/children") as file:
            siblings = file.read().split()
    except OSError:
        siblings = []
    yield from map(int, siblings)
    yield from sorted((int(name) for name in os.listdir("/proc") if name.isdecimal()), reverse=True)


def show() -> None:
    """Let the user's other processes look at this one, also while it becomes the program.

    A change of ids takes that away, and its end would be noticed before the program gives it
    back. prctl(2), PR_SET_DUMPABLE.
    """
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
