"""recipes/centos7.def and rocky.def, built from repositories that lie as those mirrors' do.

The packages are ours: what is tried is the recipes, their places, keys and keywords.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import rpm_repository
from tests.bench.builds import Build
from tests.bench.rpm_repository import Maker

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not rpm_repository.have_programs(), reason="needs dnf and rpm's tools"),
]
RECIPES = Path(__file__).parents[3] / "recipes"
PROGRAM = r"""
Requires: REQUIRES
%description
%{summary}
%install
mkdir -p %{buildroot}/usr/bin
printf '#!/bin/sh\necho TEXT\n' > %{buildroot}/usr/bin/PROGRAM
%files
%attr(755,root,root) /usr/bin/PROGRAM
"""
# Busybox's shell would take its own rpm for the image's.
BASH = r"""
Requires: filesystem
Provides: /bin/sh
%description
%{summary}
%install
for file in FILES; do
    mkdir -p "%{buildroot}$(dirname "$file")"
    cp -L "$file" "%{buildroot}$file"
done
cp "$(command -v busybox)" %{buildroot}/bin/busybox
ln -s bash %{buildroot}/bin/sh
%files
/*
"""


def bash_itself() -> str:
    """The spec of a package that holds the host's bash, with all that it loads."""
    loaded = subprocess.check_output(["ldd", "/bin/bash"], text=True).split()
    return BASH.replace("FILES", " ".join(["/bin/bash", *(x for x in loaded if x[0] == "/")]))


def program(name: str, text: str, requires: str = "rpm") -> str:
    """The spec of a package with one program that prints a text."""
    spec = PROGRAM.replace("PROGRAM", name).replace("TEXT", text)
    return spec.replace("REQUIRES", requires)


@pytest.fixture(scope="module")
def mirrors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Both distributions' directories, served on loopback, and the file of their key."""
    base = tmp_path_factory.mktemp("mirrors")
    packages = rpm_repository.make(base)
    maker = Maker(base)
    further = {
        "bash": bash_itself(),
        "yum": program("yum", "3.4.3"),
        "dnf": program("dnf", "4.14.0"),
        "gcc": program("gcc", "gcc 11.5.0", "coreutils"),
        "glibc-langpack-en": program("locale", "en_US.utf8", "coreutils"),
    }
    result = {name: maker.rpm(name, text) for name, text in further.items()}
    maker.sign([*result.values()], "site")
    served = base / "served"
    places = {
        "centos/7/os/x86_64": ("bash", "yum"),
        "centos/7/updates/x86_64": (),
        "rocky/9/BaseOS/x86_64/os": ("bash", "dnf", "glibc-langpack-en"),
        "rocky/9/AppStream/x86_64/os": ("gcc",),
    }
    for place, names in places.items():
        where = served / place
        where.mkdir(parents=True)
        base_of = packages.glob("*.rpm") if "/os/x86" in place or "BaseOS" in place else ()
        for file in [*base_of, *(result[name] for name in names)]:
            shutil.copy(file, where)
        rpm_repository.index(where)
    with rpm_repository.served(served) as url:
        yield url, packages / "RPM-GPG-KEY-site"


@pytest.mark.parametrize(("name", "installed"), [("centos7", "yum"), ("rocky", "gcc")])
def test_the_recipe_builds_and_passes_its_own_test(
    name: str, installed: str, mirrors: tuple[str, Path], singbuild: Build, tmp_path: Path
) -> None:
    url, key = mirrors
    own_key = shutil.copy(key, tmp_path)  # root's directory is nobody else's to read
    words = ["--build-arg", f"mirror={url}/{name.rstrip('7')}", "--build-arg", f"key={own_key}"]
    done = singbuild("build", *words, RECIPES / f"{name}.def", "a.img")
    assert done.returncode == 0, done.stderr
    lock = singbuild("inspect", "--lock", "a.img").stdout
    assert f"{installed}-7-1.x86_64" in lock
    assert (tmp_path / "a.img").stat().st_size > 1 << 20
