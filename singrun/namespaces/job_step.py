"""Whether a launch is one of several ranks of a job step on this node, which may share namespaces.

joining.py has what those do.
"""

import os

from singrun.errors import RunError
from singrun.request import Request

# One of these is set for every rank: Slurm, Open MPI, PMIx, MPICH and its kin, Flux, PALS.
_RANKS = [
    *("SLURM_STEP_ID", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MPI_LOCALRANKID"),
    *("FLUX_TASK_RANK", "PALS_RANKID"),
]
# Number of ranks on this node; the innermost launcher's variable is first.
_LOCAL_SIZES = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE"]


def want_joining(request: Request) -> bool:
    """Whether to share namespaces: as --join and --no-join say, else for ranks of a job step."""
    isolation = request.isolation
    alone = isolation.pid or request.image.writable or isolation.as_caller
    alone = alone or bool(isolation.limits)
    if request.isolation.join and alone:
        remedy = "Leave one of them out."
        what = "Cannot combine --join with --pid, --containall, --writable, --as-caller or limits"
        raise RunError(what, remedy=remedy)
    if request.isolation.join or request.isolation.no_join or alone:
        return request.isolation.join
    many = next((os.environ[name] for name in _LOCAL_SIZES if name in os.environ), "")
    # Slurm shortens what it says of several nodes: "1(x2)" is one rank on each. srun(1),
    # SLURM_TASKS_PER_NODE.
    return many.partition("(")[0] != "1" and any(name in os.environ for name in _RANKS)
