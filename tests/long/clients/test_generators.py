"""hpccm, spython, neurodocker: the recipes that they write are built and run.

The images are of a registry on loopback: a small Debian in which one script stands for what fetches
and compiles (``world.sh``), so that a recipe's own language is what is tested.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench import docker_images
from tests.bench.docker_registry import push
from tests.long.clients import site as sites
from tests.long.clients.site import Site

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.network]

PACKAGES = ("hpccm", "pyyaml", "spython", "neurodocker")
STANDS_FOR = (
    *("apt-get", "apt-key", "yum", "dnf", "yum-config-manager", "rpm", "dpkg-reconfigure"),
    *("update-locale", "update-alternatives", "ldconfig", "pip", "pip2", "pip3", "python", "conda"),
    *("python3", "useradd", "su", "wget", "curl", "tar", "git", "make", "cmake", "nvcc", "mpicc"),
    *("gcc", "g++", "gfortran", "patch", "unzip", "hpccm"),
)
_FROM = re.compile(r"^From: *(\S+)", re.M)


@dataclass(frozen=True)
class World:
    """The site, and the base image that has every name which recipes ask for."""

    user: Site
    image: docker_images.ContainerImage

    def build(self, name: str, text: str, **files: str) -> Path:
        """Build a recipe in a directory of its own; return the image's path.

        Its images get into the registry first. files: of that directory.
        """
        place = self.user.place / name
        place.mkdir()
        for file, content in {"recipe.def": text, **files}.items():
            (place / file).write_text(content)
        self.user.own(place)
        for reference in set(_FROM.findall(text)):
            path, _, tag = reference.removeprefix("nvcr.io/").partition(":")
            repository = path if "/" in path else f"library/{path}"
            push(self.image, self.user.registry, repository, tag or "latest")
        words = "exec singbuild build --no-cache recipe.def a.img"
        self.user.output("sh", "-c", f"cd {place} && {words}")
        return place / "a.img"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with sites.site("generators", *PACKAGES) as user:
        (user.place / "registries.conf").open("a").write(
            f'[[registry]]\nprefix = "nvcr.io"\nlocation = "{user.registry}"\ninsecure = true\n'
        )
        script = Path(__file__).with_name("world.sh").read_bytes()
        entries = [docker_images.directory(name) for name in ("opt", "usr/local", "etc/profile.d")]
        entries += [docker_images.directory("usr/local/sbin"), docker_images.directory("var/lib")]
        entries += [docker_images.directory("etc/ld.so.conf.d")]
        entries += [docker_images.file("etc/locale.gen", b"# en_US.UTF-8 UTF-8\n")]
        entries += [
            docker_images.file(f"usr/local/sbin/{name}", script, mode=0o755) for name in STANDS_FOR
        ]
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        result = docker_images.image(
            sites.layer(),
            docker_images.archive(*entries),
            config={"Cmd": ["bash"], "Env": [f"PATH={path}", "FROM_IMAGE=yes"]},
        )
        yield World(user, result)


@pytest.fixture(scope="module")
def recipes(world: World) -> Path:
    """The directory of hpccm's own recipes, which are in its source distribution alone."""
    place = world.user.place / "hpccm"
    place.mkdir()
    world.user.own(place)
    words = ("pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d")
    world.user.output(*words, place, "hpccm")
    world.user.output("tar", "-x", "-C", place, "-f", next(place.glob("hpccm-*.tar.gz")))
    return next(place.glob("hpccm-*/recipes"))


@pytest.mark.parametrize("version", ["2.6", "3.8"])
def test_recipes_of_hpccm_build_and_run(world: World, recipes: Path, version: str) -> None:
    user, failed, built = world.user, {}, {}
    for source in sorted(recipes.rglob("*.py")):
        if source.name in ("common.py", "script.py"):  # parts of others
            continue
        command = f"cd {source.parent} && hpccm --recipe {source} --format singularity"
        result = user.call("sh", "-c", f"{command} --singularity-version {version}")
        if result.returncode or not result.stdout.strip():  # it needs what only its author has
            continue
        scripts = {each.name: each.read_text() for each in source.parent.glob("*.sh")}
        try:
            name = f"{source.stem}-{version}"
            built[source.stem] = world.build(name, result.stdout, **scripts)
            user.output(
                "singrun", "exec", built[source.stem], "sh", "-c", 'test "$FROM_IMAGE" = yes'
            )
        except AssertionError as error:
            failed[source.stem] = str(error)[-1500:]
    assert len(built.keys() - failed.keys()) >= 14, "\n\n".join(
        f"{n}: {t}" for n, t in failed.items()
    )
    assert user.output("singrun", "run", "--app", "cc60", built["scif"]) == "compiled\n"
    labels = user.output(
        "singrun", "exec", built["scif"], "cat", "/scif/apps/cc70/scif/labels.json"
    )
    assert '"COMPUTE_CAPABILITY": "70"' in labels
    path = user.output("singrun", "exec", built["gromacs"], "sh", "-c", "echo $PATH").strip()
    assert path.startswith("/usr/local/openmpi/bin:")
    assert path.endswith(":/usr/local/gromacs/bin")
    user.output("singrun", "exec", built["multistage"], "test", "-d", "/usr/local/fftw/lib")


def test_recipes_that_spython_makes_of_dockerfiles_build_and_run(world: World) -> None:
    user, failed, built = world.user, {}, []
    find = "import os, spython; print(os.path.dirname(spython.__file__))"
    directory = Path(user.output("python", "-c", find).strip(), "tests/testdata/docker2singularity")
    for source in sorted(directory.glob("*.docker")):
        text = user.output("spython", "recipe", "--parser", "docker", source)
        try:
            image = world.build(f"{source.stem}-spython", text, **{"requirements.txt": "scif\n"})
            user.output("singrun", "exec", image, "sh", "-c", 'test "$FROM_IMAGE" = yes')
            built.append(source.stem)
        except AssertionError as error:
            failed[source.stem] = str(error)[-1500:]
    # A SHELL instruction becomes a command that no image has.
    assert [*failed] == ["argsub"], "\n\n".join(f"{n}: {t}" for n, t in failed.items())
    assert len(built) == 14
    copied = user.place / "copy-spython/a.img"
    assert user.output("singrun", "exec", copied, "cat", "/opt/requirements.txt") == "scif\n"
    final = user.place / "multistage-spython/a.img"
    user.output("singrun", "exec", final, "test", "-e", "/bin/hello")


def test_a_recipe_of_neurodocker_builds_and_runs(world: World) -> None:
    user = world.user
    words = ("--pkg-manager", "apt", "--base-image", "debian:12", "--yes", "--env", "A=1")
    more = ("--run", "echo hi > /opt/hi", "--label", "x=y", "--copy", "README", "/opt/README")
    end = ("--workdir", "/opt", "--entrypoint", "cat", "/opt/hi", "/opt/README")
    text = user.output("neurodocker", "generate", "singularity", *words, *more, *end)
    image = world.build("neurodocker", text, README="read me\n")
    assert user.output("singrun", "run", image) == "hi\nread me\n"
    assert user.output("singrun", "exec", image, "sh", "-c", "echo $A") == "1\n"
    assert '"x": "y"' in user.output("singbuild", "inspect", image, "--json")
