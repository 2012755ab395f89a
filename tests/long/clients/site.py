"""A site whose users have programs that call singularity or apptainer, which are ours there.

Each program has a virtual environment of its own, kept from one run to the next. Images come from
a registry on loopback that stands in for all hubs (registries.conf), so the programs are unchanged.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from singbuild_docker.reference import DOCKER

from tests.bench import docker_images, docker_registry, installation
from tests.bench import singrun_images as images
from tests.bench.host import PATIENCE, shared_directory
from tests.bench.singrun_images import PYTHON, Person

# Of this host's Debian; a hub's debian:stable-slim has these and more.
_PACKAGES = (
    *("base-files", "bash", "dash", "coreutils", "grep", "sed", "mawk", "findutils", "hostname"),
    *("libc6", "libc-bin", "libtinfo6", "libselinux1", "libpcre2-8-0", "libacl1", "libattr1"),
    *("libgmp10", "debianutils", "procps", "libproc2-0", "diffutils", "tar", "gzip"),
)
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
# What the programs' own tests ask hubs for.
NAMES = (
    *("library/debian:12", "library/debian:stable-slim", "library/debian:latest"),
    *("library/ubuntu:latest", "library/busybox:latest", "library/busybox:1.30.1"),
    *("library/bash:4.4", "library/bash:4.4.12", "library/alpine:latest", "lab/plain:12"),
)


@dataclass
class Site:
    """Where somebody types. programs: of the client, before ours; more: environment variables."""

    person: Person
    place: Path
    registry: str
    programs: Path
    more: dict[str, str] = field(default_factory=dict)

    def call(
        self, *words: str | Path, seconds: float = 600, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the place."""
        return subprocess.run(
            self.person.words(*words),
            cwd=self.place,
            env=self.variables() | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds * PATIENCE,
        )

    def variables(self) -> dict[str, str]:
        """Return the environment of a login there."""
        ours = installation.programs()
        own = {
            "PATH": f"{self.programs}:{ours}:{os.environ['PATH']}",
            "CONTAINERS_REGISTRIES_CONF": str(self.place / "registries.conf"),
            "LC_ALL": "C.UTF-8",
            "TMPDIR": str(self.place / "tmp"),  # what a program leaves there goes with the site
        }
        return self.person.environment() | own | self.more

    def output(
        self, *words: str | Path, seconds: float = 600, env: Mapping[str, str] | None = None
    ) -> str:
        """Return what a command prints; it must succeed."""
        done = self.call(*words, seconds=seconds, env=env)
        assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def own(self, directory: Path) -> None:
        """Make the person the owner of what a test has written."""
        subprocess.run(["chown", "-R", self.person.name, directory], check=True)


@contextmanager
def site(name: str, *packages: str) -> Iterator[Site]:
    """Set up a site for the time of a with-block. packages: of PyPI, all that the program needs."""
    programs = venv(name, packages)
    with shared_directory() as place, images.ordinary_user() as user:
        place.chmod(0o755)
        server = place / "registry"
        server.mkdir()
        with docker_registry.genuine(server) as registry:
            plain = docker_images.image(layer(), config={"Cmd": ["bash"], "Env": ["FROM_IMAGE=1"]})
            for each in NAMES:
                repository, _, tag = each.partition(":")
                docker_registry.push(plain, registry, repository, tag)
            person = Person(user, Path("singularity"))
            work = place / "work"
            for directory in (work, work / "tmp"):
                directory.mkdir()
                shutil.chown(directory, user)
            (work / "registries.conf").write_text(
                f'[[registry]]\nprefix = "{DOCKER}"\nlocation = "{registry}"\ninsecure = true\n'
            )
            yield Site(person, work, registry, programs)


def venv(name: str, packages: Sequence[str]) -> Path:
    """Return the directory of a program's commands; it is installed once, where all may read."""
    default = "/var/cache/singbuild-tests/clients"
    base = Path(os.environ.get("SINGBUILD_TEST_CLIENTS", default))
    base.mkdir(parents=True, exist_ok=True)
    place = base / name
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done, expected = place / "installed", " ".join(packages)
        if not done.exists() or done.read_text() != expected:
            shutil.rmtree(place, ignore_errors=True)
            subprocess.run([PYTHON, "-m", "venv", place], check=True)
            pip = str(place / "bin/pip")
            if packages:
                words = [pip, "install", "-q", *packages]
                subprocess.run(words, check=True, capture_output=True)
            subprocess.run(["chmod", "-R", "a+rX", base], check=True)
            done.write_text(expected)
    return place / "bin"


def layer() -> bytes:
    """Return a small Debian as a layer: this host's packages, without what is only read."""
    names = subprocess.check_output(["dpkg", "-L", *_PACKAGES], text=True).splitlines()
    result = {f"{os.path.realpath(os.path.dirname(n))}/{os.path.basename(n)}" for n in names}
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in sorted(result):
            path = Path(name)
            is_read = name.startswith(("/usr/share/doc", "/usr/share/man", "/usr/share/locale"))
            if path.is_file() and not is_read:
                archive.add(path, name.lstrip("/"), recursive=False)
        for link, target in _LINKS.items():
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        for link, target in (("usr/bin/sh", "dash"), ("usr/bin/awk", "mawk")):
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        for directory in ("tmp", "var/tmp", "root", "home", "proc", "sys", "dev", "mnt", "srv"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if "tmp" in directory else 0o755
            archive.addfile(entry)
        for file, text in (
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
            ("etc/group", "root:x:0:\n"),
        ):
            entry = tarfile.TarInfo(file)
            entry.size = len(text)
            archive.addfile(entry, BytesIO(text.encode()))
    return out.getvalue()
