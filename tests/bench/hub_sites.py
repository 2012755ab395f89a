"""Sites of a hub without a build: records of images as a build would leave them.

Their files and packages are those of this host's Debian, some thousands an image, with the host's
own sizes; contents are told apart by package and version, so that images share what they have in
common. The image files are empty.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import stat
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from singbuild.hub import collection, contents, publish
from singbuild.hub.contents import File
from singbuild.hub.repository import Commit
from singbuild.hub.site import Site, dumped
from singbuild.hub.work import Survey, Unit

DAY = 86_400
FIRST = 1_767_268_800  # 2026-01-01T12:00:00Z
BASE = (
    *("base-files", "bash", "coreutils", "dash", "dpkg", "grep", "libc-bin", "libc6", "perl-base"),
    *("sed", "tar", "util-linux", "tzdata", "login", "passwd", "mawk", "findutils", "gzip"),
)


@dataclass(frozen=True)
class Image:
    """A simulated image. version: another one has other files. most: files, at most."""

    tag: str
    packages: Sequence[str] = ()
    version: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    help: str = ""
    error: str = ""
    most: int = 1_000_000

    @property
    def source(self) -> str:
        """The text of its recipe."""
        lines = ["Bootstrap: debootstrap", "OSVersion: bookworm", ""]
        if self.labels:
            lines += ["%labels", *(f"    {name} {text}" for name, text in self.labels.items()), ""]
        if self.help:
            lines += ["%help", f"    {self.help}", ""]
        names = " ".join(name for name in self.packages if name not in BASE)
        lines += ["%post", "    apt-get update", f"    apt-get install -y {names}".rstrip()]
        lines += [f"    echo {self.version} > /etc/{self.tag}-version"]
        return "\n".join([*lines, "", "%runscript", f'    exec {self.tag} "$@"', ""])

    @property
    def key(self) -> str:
        """The content key of its build."""
        facts = json.dumps([self.tag, self.source, self.error, self.most])
        return hashlib.sha256(facts.encode()).hexdigest()[:32]


@functools.cache
def installed() -> dict[str, tuple[str, str]]:
    """Return the packages of this host: version and architecture by name."""
    form = "${Package}\t${Version}\t${Architecture}\t${db:Status-Status}\n"
    lines = subprocess.check_output(["dpkg-query", "-W", "-f", form], text=True).splitlines()
    rows = [line.split("\t") for line in lines]
    return {name: (version, arch) for name, version, arch, state in rows if state == "installed"}


@functools.cache
def files_of(package: str) -> tuple[File, ...]:
    """Return the files of one of this host's packages."""
    done = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=False)
    version = installed().get(package, ("0", ""))[0]
    rows = []
    for name in done.stdout.splitlines():
        path = Path(name)
        try:
            status = path.lstat()
        except OSError:
            continue
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            rows.append(File("/" if name == "/." else name, "d", mode, 0, ""))
        elif stat.S_ISLNK(status.st_mode):
            rows.append(File(name, "l", mode, 0, str(path.readlink())))
        else:
            digest = hashlib.sha256(f"{package} {version} {name}".encode()).hexdigest()[:16]
            rows.append(File(name, "f", mode, status.st_size, digest))
    return tuple(rows)


def files(image: Image) -> list[File]:
    """Return the files of an image."""
    by_path = {each.path: each for name in image.packages for each in files_of(name)}
    own = f"/etc/{image.tag}-version"
    digest = hashlib.sha256(f"{image.tag} {image.version}".encode()).hexdigest()[:16]
    by_path[own] = File(own, "f", 0o644, 2, digest)
    chance = random.Random(image.tag)
    return sorted(chance.sample([*by_path.values()], min(image.most, len(by_path))))


def record(site: Site, image: Image, commit: Commit) -> None:
    """Write what a build leaves in the stores."""
    own: dict[str, Any] = {
        "version": 1,
        "key": image.key,
        "tag": image.tag,
        "path": f"Singularity.{image.tag}",
        "commit": {"id": commit.id, "time": commit.time},
        "source": image.source,
    }
    log = ["== bootstrap: Bootstrap: debootstrap", "I: Retrieving packages", "I: Base system ready"]
    log += ["== post: %post", *(f"Setting up {name} ..." for name in image.packages)]
    steps = [{"name": "bootstrap", "seconds": 24.2}, {"name": "post", "seconds": 31.7}]
    run = {"began": commit.time + 60, "seconds": 57.1, "steps": steps, "log": log}
    site.write(f"runs/{image.key}.json", dumped(run))
    if image.error:
        failure = {"status": "failed", "error": {"status": 7, "text": image.error}}
        site.write(f"records/{image.key}.json", dumped(own | failure))
        return
    entries = files(image)
    packages = []
    for name in sorted(image.packages):
        version, arch = installed().get(name, ("1.0", "all"))
        size = sum(each.size for each in files_of(name))
        purl = f"pkg:deb/debian/{name}@{version}"
        facts = {"name": name, "version": version, "arch": arch, "purl": purl, "size": size}
        packages.append({"kind": "deb", **facts})
    size = sum(each.size for each in entries)
    digest = hashlib.sha256(image.key.encode()).hexdigest()
    summary = {
        "digest": f"sha256:{digest}", "size": size, "used": size, "kind": "SIF",
        "system": "Debian GNU/Linux 12 (bookworm)", "backend": {"name": "debootstrap"},
        "labels": dict(image.labels), "machine": "amd64", "packages": packages, "notes": [],
        "environment": {"/.singularity.d/env/90-environment.sh": "export LC_ALL=C.UTF-8\n"},
        "apps": {}, "directories": {}, "recipe": image.source, "lock": "version: 1\n",
        "runscript": f'#!/bin/sh\nexec {image.tag} "$@"\n', "test": None, "help": image.help,
    }  # fmt: skip
    built = {
        "status": "built",
        "image": {"sha256": digest, "md5": digest[:32], "size": size * 2 // 5},
        "reproducible": {"same": True, "surroundings": [], "paths": []},
        "files": len(entries),
        "sketch": contents.sketch(entries),
        "programs": contents.programs(entries),
        "licences": {"GPL-2.0-or-later": len(packages) // 2, "MIT": len(packages) // 5},
        "shown": summary,
    }
    site.write_files(image.key, entries)
    site.write(f"records/{image.key}.spdx.json", "{}")
    site.write(f"images/{image.key}.sif", "")
    site.write(f"records/{image.key}.json", dumped(own | built))


def commit(number: int, subject: str) -> Commit:
    """Return a simulated commit."""
    digest = hashlib.sha256(f"{number} {subject}".encode()).hexdigest()[:40]
    return Commit(digest, FIRST + number * DAY, subject)


def add(site: Site, name: str, of: Commit, images: Iterable[Image]) -> None:
    """Add a commit to a collection: its records, and what it has built; no pages."""
    units = {}
    for image in images:
        if not site.record(image.key):
            record(site, image, of)
        units[image.tag] = Unit(image.tag, f"Singularity.{image.tag}", image.key)
    collection.add(site, name, f"https://git.example/{name}", Survey(of, units, {}))


def write(site: Site, names: Iterable[str], url: str = "") -> None:
    """Write the pages of some collections."""
    publish.rewrite(site, names, url)


_TOOLS = {
    "python": ("Python 3", "python3 python3-minimal python3.11 libpython3.11-stdlib"),
    "r-base": ("R, a language for statistics", "libblas3 libgfortran5 perl libperl5.36"),
    "compiler": ("GCC and make", "gcc gcc-12 make binutils libc6-dev cpp-12 libgcc-12-dev"),
    "git": ("Git", "git git-man openssl ca-certificates libcurl3-gnutls"),
    "slurm-tools": ("Commands for a cluster", "procps file strace"),
    "images": ("Programs for images", "squashfs-tools e2fsprogs fuse2fs skopeo umoci"),
}


def laboratory(site: Site, url: str = "") -> list[str]:
    """Fill a site with two small collections that have a history; return their names."""
    labels = {"org.label-schema.vendor": "A laboratory", "Maintainer": "ada@lab.example"}
    base = Image("base", BASE, labels=labels, help="A small Debian to start from.")
    tools = [
        Image(tag, (*BASE, *packages.split()), labels=labels | {"Tool": tag}, help=f"{text}.")
        for tag, (text, packages) in _TOOLS.items()
    ]
    broken = Image("mpi", error="E: Unable to locate package openmpi-bim\n%post exited with 100")
    first = [base, tools[0], broken]
    add(site, "lab/tools", commit(1, "A base, and Python"), first)
    add(site, "lab/tools", commit(9, "R, and a compiler"), [*first, *tools[1:3]])
    newer = [replace(base, version=2), *(replace(each, version=2) for each in tools)]
    add(site, "lab/tools", commit(30, "All tools on bookworm 12.13"), [*newer, broken])
    newest = [
        *newer[:1],
        replace(tools[0], version=3, packages=(*tools[0].packages, "git")),
        *newer[2:],
        broken,
    ]
    add(site, "lab/tools", commit(41, "Python has Git"), newest)
    teaching = [replace(tools[n], tag=tag) for n, tag in ((0, "course"), (2, "exercises"))]
    add(site, "school/computing", commit(20, "For the summer school"), teaching)
    names = ["lab/tools", "school/computing"]
    write(site, names, url)
    return names


def generated(
    site: Site, name: str, number: int, count: int, per_image: int, most: int = 1_000_000
) -> None:
    """Add a collection of images made of random packages.

    per_image: packages beside BASE; most: files of an image, at most.
    """
    chance = random.Random(f"{name} {number}")
    others = [each for each in sorted(installed()) if each not in BASE]
    images = []
    for each in range(count):
        packages = (*BASE, *chance.sample(others, min(per_image, len(others))))
        labels = {"Number": f"{each}"}
        images.append(Image(f"tool-{each:03}", packages, version=each, labels=labels, most=most))
    add(site, name, commit(number, "Many tools"), images)
