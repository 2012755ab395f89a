"""doctor --mpi IMAGE: whether the host's launchers and the image's MPI understand each other.

Compares before a run what otherwise shows only in it: ranks that each take themselves for the
only one, or a library that cannot be loaded.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from singrun.errors import RunError
from singrun.hardware import elf
from singrun.hardware.elf import Library
from singrun.hardware.linker import Inside
from singrun.mounts.root import Root
from singrun.verbs.doctor import Finding

OPEN_MPI, MPICH = "Open MPI", "MPICH"
# libmpi.so.12 is Open MPI 1.10's, and that of all who keep to MPICH's ABI:
# https://wiki.mpich.org/mpich/index.php?title=ABI_Compatibility_Initiative.
_SONAMES = (
    *("libmpi.so.40", "libmpi.so.20", "libmpi.so.12", "libmpi.so.1"),
    *("libmpich.so.12", "libmpich.so.10", "libmpi_intel.so.12"),
)
# Where distributions keep an MPI that a module file or mpi-selector chooses.
_MORE = ("/usr/lib64/openmpi/lib", "/usr/lib64/mpich/lib", "/usr/local/lib", "/opt/openmpi/lib")
_LARGEST = 64 << 20
_C_LIBRARY = "libc.so.6"
# A child that shows the image at a directory, and one in there that examines it.
_START = "import sys; sys.path = {path}; from {package} import {module}; {module}.{call}"


def report(image: str, *, as_json: bool) -> str:
    """Return findings on the launchers of this host with the MPI of ``image``."""
    inside = _examined(image)
    outside = examine("/", [*inside.get("soname", []), *_SONAMES])
    findings = findings_for(inside, outside, _mpirun(), _slurm())
    if as_json:
        facts = {"version": 1, "command": "doctor", "findings": [vars(each) for each in findings]}
        return json.dumps(facts, indent=2) + "\n"
    return "".join(f"{each.line()}\n" for each in findings)


def examine(tree: str, names: Sequence[str] = _SONAMES) -> dict[str, list[str]]:
    """Return what an MPI library in ``tree`` says: "family", "soname", "pmi", "wanted", "given".

    It is the first that is there of ``names``.
    wanted, given: versions of the C library that the MPI needs, and that there are.
    """
    inside = Inside(Root(tree), more=_MORE)
    c_library = _read(inside, _C_LIBRARY)
    facts = {"given": c_library.defined_versions if c_library else []}
    for name in names:
        library = _read(inside, name)
        if not library:
            continue
        family = MPICH if "mpich" in name or _has_mpich(inside, name) else OPEN_MPI
        facts |= {"family": [family], "soname": [library.soname or name]}
        facts |= {"pmi": _pmi(inside, library, family)}
        facts |= {"wanted": library.required_versions.get(_C_LIBRARY, [])}
        break
    return facts


def findings_for(
    image: dict[str, list[str]], host: dict[str, list[str]], mpirun: str, slurm: "list[str] | None"
) -> list[Finding]:
    """Judge. mpirun: the host's, its family and version. slurm: its plugins, None without Slurm."""
    if "family" not in image:
        names = ", ".join(_SONAMES[:1] + _SONAMES[4:5])
        remedy = "Build the image with an MPI, as recipes/mpi.def does."
        return [Finding("the image's MPI", f"none ({names} …)", remedy, needed=True)]
    family, soname = image["family"][0], image["soname"][0]
    own = Finding("the image's MPI", f"{family}, {soname}, PMI: {', '.join(image['pmi']) or '?'}")
    return [own, _by_mpirun(family, mpirun), _by_slurm(image["pmi"], slurm), _bound(image, host)]


def _by_mpirun(family: str, mpirun: str) -> Finding:
    topic = "mpirun singrun exec IMAGE"
    if not mpirun:
        remedy = "Use srun, or the image's own mpirun on one node."
        return Finding(topic, "this host has no mpirun", remedy)
    if mpirun.startswith(family):
        return Finding(topic, f"the host's is of {mpirun}")
    state = (
        f"the host's is of {mpirun}, the image has {family}: each rank would run alone, as 0 of 1"
    )
    remedy = f"Use srun --mpi=…, a mpirun of {family}, or the image's own on one node."
    return Finding(topic, state, remedy, needed=True)


def _by_slurm(pmi: list[str], slurm: "list[str] | None") -> Finding:
    topic = "srun --mpi=… singrun exec IMAGE"
    if slurm is None:
        return Finding(topic, "this host has no Slurm")
    both = [name for name in pmi if name in slurm]
    if both:
        return Finding(topic, f"--mpi={both[0]}")
    state = f"Slurm speaks {', '.join(slurm) or 'no PMI'}, the image's MPI {', '.join(pmi) or '?'}"
    remedy = "Ask for Slurm's PMIx plugin, or build the image with an MPI that speaks one of those."
    return Finding(topic, f"{state}: each rank would run alone, or refuse", remedy, needed=True)


def _bound(image: dict[str, list[str]], host: dict[str, list[str]]) -> Finding:
    """Whether the host's library could take the place of the image's."""
    topic, soname = "the host's MPI bound over the image's", image["soname"][0]
    theirs = host.get("soname", ["none"])[0]
    if host.get("family") != image["family"] or theirs != soname:
        state = f"the host has {theirs}, the image's programs want {soname}"
        return Finding(topic, state, "Keep to the image's own MPI.")
    missing = sorted(set(host["wanted"]) - set(image["given"]))
    if missing:
        state = f"the host's {soname} needs {missing[-1]}, which the image's {_C_LIBRARY} has not"
        return Finding(topic, state, "Build the image from a distribution as new as the host's.")
    return Finding(topic, f"{soname} fits")


def _read(inside: Inside, name: str) -> "Library | None":
    fd = inside.open(name)
    if fd < 0:
        return None
    try:
        return elf.read(fd)
    except (elf.ElfError, OSError):
        return None
    finally:
        os.close(fd)


def _has_mpich(inside: Inside, name: str) -> bool:
    """Whether the library speaks of MPICH: libmpi.so.12 is of either family."""
    with open(inside.open(name), "rb") as file:
        return b"MPICH Version" in file.read(_LARGEST)


def _pmi(inside: Inside, library: Library, family: str) -> list[str]:
    """Which PMI it speaks, by Slurm's names."""
    own = (
        ["pmix"] if any(name.startswith("libpmix.so") for name in library.needed_libraries) else []
    )
    if family == MPICH:  # PMI-1 is built in, and Slurm's pmi2 answers it
        return [*own, "pmi2"]
    plugins = " ".join(inside.listing("openmpi/lib/openmpi3", "openmpi/lib/openmpi", "openmpi"))
    if _read(inside, "libpmix.so.2") or "mca_pmix_pmix" in plugins or "mca_pmix_ext" in plugins:
        own = ["pmix"]
    return own + ["pmi2"] * ("mca_pmix_s2" in plugins)


def _examined(image: str) -> dict[str, list[str]]:
    """Examine an image, which is shown to a child process for as long as that takes."""
    if os.path.isdir(image):
        return examine(image)
    with tempfile.TemporaryDirectory(prefix="singrun-doctor-") as place:
        interpreter = [sys.executable, "-IS", "-c"]
        package, _, module = __name__.rpartition(".")
        look = _start(package, module, f"tell({place!r})")
        show = _start("singrun", "cli", "main()")
        command = [*interpreter, show, "mount", image, place, *interpreter, look]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise RunError(f"Cannot examine {image}", why="It could not be mounted; see above.")
    facts: dict[str, list[str]] = json.loads(done.stdout)
    return facts


def _start(package: str, module: str, call: str) -> str:
    """Return what Python executes to call a function of ours."""
    return _START.format(path=sys.path, package=package, module=module, call=call)


def tell(tree: str) -> None:
    """Write what examine() finds, for the process above."""
    sys.stdout.write(json.dumps(examine(tree)))


def _mpirun() -> str:
    """Return family and version of the first mpirun on the PATH, "" if there is none."""
    text = _output("mpirun", "--version")
    words = text.split()
    if "(Open MPI)" in text:
        return f"{OPEN_MPI} {words[words.index('MPI)') + 1]}"
    if "HYDRA" in text and "Version:" in words:
        return f"{MPICH} {words[words.index('Version:') + 1]}"
    return words[0] if words else ""


def _slurm() -> "list[str] | None":
    """Return the names that srun --mpi= knows."""
    if not shutil.which("srun"):
        return None
    words = _output("srun", "--mpi=list").replace(",", " ").split()
    return [word for word in words if word.startswith(("pmi", "cray"))]


def _output(*command: str) -> str:
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=60,
    )
    return done.stdout.decode(errors="replace")
