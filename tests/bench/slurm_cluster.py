"""A real Slurm on this machine: munged, slurmctld and two slurmd, n1 and n2.

Each node has its own host name, /tmp and /dev/shm, in namespaces of its own,
as two machines would; with one /dev/shm Open MPI's segments of the two collide.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from singbuild import command
from tests.bench.host import OWN_PROCESSES, PATIENCE, alone, wait_until

NODES = ("n1", "n2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
_CGROUPS = Path("/sys/fs/cgroup")
HAVE_CGROUPS = (_CGROUPS / "memory").is_dir() and (_CGROUPS / "freezer").is_dir()  # version 1
_CONFIGURATION = """
ClusterName=singrun
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd-%n.log
MailProg=/bin/true
MpiDefault=none
ProctrackType={proctrack}
TaskPlugin={task}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={directory}/completed
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SchedulerType=sched/backfill
OverTimeLimit=0
KillWait=1
ReturnToService=2
DefMemPerCPU=200
MaxArraySize=1001
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=60 State=UP OverSubscribe=YES:4
"""
_NODE = (
    "NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=1000\n"
)
_AS_A_NODE = (
    "hostname {name} && mount -t tmpfs -o mode=1777 tmpfs /dev/shm"
    " && mount -t tmpfs -o mode=1777 tmpfs /tmp && echo ready && exec sleep infinity"
)


def is_installed() -> bool:
    """Whether this host has Slurm."""
    return all(command.which(name) for name in PROGRAMS)


class Cluster:
    """Slurm with its files in ``directory``; daemons by name, a node's slurmd by the node's.

    nodes: by name, a process in the namespaces that stand for the node.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.variables = {"SLURM_CONF": str(directory / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        (directory / "state").mkdir()
        for name in NODES:
            (directory / f"spool-{name}").mkdir()
        key = directory / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        (directory / "slurm.conf").write_text(_configuration(directory))
        (directory / "cgroup.conf").write_text("ConstrainRAMSpace=yes\nConstrainCores=yes\n")

    def start(self) -> None:
        """Start all daemons and wait until both nodes are idle."""
        own = {name: self.directory / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        files = [f"--key-file={self.directory}/munge.key", f"--socket={own['socket']}"]
        files += [f"--{name}-file={own[name]}" for name in ("pid", "log", "seed")]
        self._spawn("munged", "munged", "--foreground", "--force", *files)
        wait_until(own["socket"].exists)
        self._spawn("slurmctld", "slurmctld", "-D", "-c")
        for name in NODES:
            self.nodes[name] = _node(name)
            self.start_slurmd(name)
        self.wait_for("sinfo", "-h", "-t", "idle", "-o", "%D", answer="2")

    def start_slurmd(self, name: str) -> None:
        """Start a node's slurmd, in the node's namespaces."""
        inside = ("nsenter", "--mount", "--uts", "--target", str(self.nodes[name].pid))
        self._spawn(name, *inside, "slurmd", "-D", "-N", name)

    def lose(self, name: str) -> None:
        """Kill all that runs on a node, and let Slurm know, as the check of its health would."""
        namespace = os.readlink(f"/proc/{self.nodes[name].pid}/ns/uts")
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns/uts") == namespace:
                    pid = int(entry.name)
                    if pid != self.nodes[name].pid:
                        os.kill(pid, signal.SIGKILL)
        self.daemons[name].wait()
        self.ask("scontrol", "update", f"nodename={name}", "state=down", "reason=lost")

    def restore(self, name: str) -> None:
        """Start a lost node again."""
        self.start_slurmd(name)
        self.ask("scontrol", "update", f"nodename={name}", "state=resume")
        self.wait_for("sinfo", "-h", "-N", "-r", "-o", "%n", answer="\n".join(NODES))

    def stop(self) -> None:
        """End all jobs, then the daemons."""
        self.ask("scancel", "--full", "--signal=KILL", "--state=RUNNING")
        self.ask("scancel", "--state=PENDING")
        self.wait_for("squeue", "-h", answer="")
        for process in (*reversed(self.daemons.values()), *self.nodes.values()):
            process.terminate()
            process.wait()
        OWN_PROCESSES.clear()
        for place in _CGROUPS.glob("*/slurm_n[12]"):
            for directory in sorted(place.rglob("*/"), reverse=True):
                directory.rmdir()
            place.rmdir()

    def ask(self, *words: str) -> str:
        """Run one of Slurm's commands as root; what it writes."""
        environment = os.environ | self.variables
        done = subprocess.run(
            words,
            env=environment,
            check=False,
            stdout=subprocess.PIPE,
            timeout=60 * PATIENCE,
            text=True,
        )
        return done.stdout.strip()

    def wait_for(self, *words: str, answer: str, seconds: float = 90) -> None:
        """Ask again and again until Slurm says what is expected."""
        until = time.monotonic() + seconds * PATIENCE
        while (actual := self.ask(*words)) != answer:
            assert time.monotonic() < until, f"{words}: {actual}\n{self.logs()}"
            time.sleep(0.1)

    def logs(self) -> str:
        """The ends of all logs, for a failed test."""
        files = sorted(self.directory.glob("*.log"))
        return "\n".join(f"{file}:\n{file.read_text()[-2000:]}" for file in files)

    def _spawn(self, name: str, *words: str) -> None:
        with (self.directory / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(
                words,
                env=os.environ | self.variables,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        OWN_PROCESSES.add(self.daemons[name].pid)


def _node(name: str) -> subprocess.Popen[bytes]:
    words = ("unshare", "--mount", "--uts", "sh", "-c", _AS_A_NODE.format(name=name))
    node = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    assert node.stdout
    with node.stdout as output:
        assert output.readline() == b"ready\n"
    return node


def _configuration(directory: Path) -> str:
    values = {
        "directory": directory,
        "host": socket.gethostname().partition(".")[0],
        "controller": _free_port(),
        "proctrack": "proctrack/cgroup" if HAVE_CGROUPS else "proctrack/linuxproc",
        "task": "task/affinity,task/cgroup" if HAVE_CGROUPS else "task/affinity",
    }
    nodes = "".join(_NODE.format(name=name, port=_free_port()) for name in NODES)
    general, _, partition = _CONFIGURATION.format(**values).partition("PartitionName")
    return f"{general}{nodes}PartitionName{partition}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def cluster(directory: Path) -> Iterator[Cluster]:
    """Set it up in ``directory``, which every user may read, and take it down again."""
    with alone("slurm"):  # the nodes' control groups have the nodes' names
        slurm = Cluster(directory)
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()
