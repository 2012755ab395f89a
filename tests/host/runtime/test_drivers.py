"""--nv, --rocm, --fabric with a driver made of real libraries: good, too new, foreign, missing.

The fake driver is found as a real one is, by a cache that ldconfig writes; its
devices are other names for /dev/zero.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import singrun_images as images
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root

# Loads the library that it is told, and prints what that answers.
PROBE = """
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv) {
    void *library = dlopen(argv[1], RTLD_NOW);
    int (*answer)(void) = library ? dlsym(library, "answer") : 0;
    if (!answer) { fprintf(stderr, "%s\\n", dlerror()); return 1; }
    printf("%d\\n", answer());
    return 0;
}
"""
AARCH64 = (183).to_bytes(2, "little")


def compiled(target: Path, source: str, *options: str | Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-x", "c", "-", "-x", "none", "-o", target, *options]
    subprocess.run(command, input=source, text=True, check=True)
    return target


def library(target: Path, answer: str, *options: str | Path, before: str = "") -> Path:
    source = f"{before}\nint answer(void) {{ return {answer}; }}\n"
    return compiled(target, source, "-shared", "-fPIC", f"-Wl,-soname,{target.name}", *options)


class Driver:
    """A driver below ``directory``: libraries, devices and programs, and the site's file."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.libraries = directory, directory / "lib"
        self.libraries.mkdir(parents=True)
        self.site, self.cache = directory / "singrun.conf", directory / "ld.so.cache"
        for name in ("nvidia0", "nvidiactl", "kfd", "infiniband"):
            os.mknod(directory / name, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
            (directory / name).chmod(0o666)
        (directory / "bin").mkdir()
        images.write_script(directory / "bin/nvidia-smi", "#!/bin/sh\necho one fake GPU\n")
        lists = [
            *(f"{kind} device =\n" for kind in ("nv", "rocm", "fabric")),
            f"nv device = {directory}/nvidia*\n",
            f"nv program = {directory}/bin/nvidia-smi\n",
            f"rocm device = {directory}/kfd\n",
            f"fabric device = {directory}/infiniband\n",
        ]
        self.site.write_text(f"linker cache = {self.cache}\n" + "".join(lists))

    def installed(self) -> None:
        """Let ldconfig find the libraries, and what lies in its own directories."""
        places = [self.libraries, *sorted(self.libraries.glob("*/"))]
        (self.directory / "ld.so.conf").write_text("".join(f"{place}\n" for place in places))
        files = ("-C", self.cache, "-f", self.directory / "ld.so.conf")
        subprocess.run(["/sbin/ldconfig", "-X", *files], check=True)
        subprocess.run(["chmod", "-R", "a+rX", self.directory], check=True)


@pytest.fixture(scope="module")
def bench(bench: Bench) -> Bench:
    tree = bench.variant("glibc")
    # With all of the C library that this host's own drivers, if it has some, may want.
    probe = compiled(bench.directory / "probe", PROBE, "-Wl,--no-as-needed", "-lm")
    images.copy_program(probe, tree, "bin/probe")
    library(tree / "opt/own/libnvidia-ml.so.1", "7")
    (tree / ".singularity.d/env/90-environment.sh").write_text("export LD_LIBRARY_PATH=/opt/own\n")
    images.ext3(tree, bench.directory / "glibc.img")
    return bench


@pytest.fixture
def image(bench: Bench) -> Path:
    return bench.directory / "glibc.img"


@pytest.fixture(params=["root, loop", "user"])
def person(request: pytest.FixtureRequest, bench: Bench, driver: Driver) -> Iterator[Person]:
    person = bench.people[request.param]
    person.variables["SINGRUN_CONFIG"] = str(driver.site)
    yield person
    images.wait_for_daemons(str(bench.directory))


@pytest.fixture
def driver(bench: Bench) -> Iterator[Driver]:
    driver = Driver(bench.directory / "driver")
    library(driver.libraries / "libcuda.so.1", "42")
    library(driver.libraries / "libnvidia-ml.so.1", "43")
    library(
        driver.libraries / "libhsa-runtime64.so.1", "44", "-ldrm-fake", driver_dependency(driver)
    )
    library(driver.libraries / "libibverbs.so.1", "45")
    driver.installed()
    yield driver
    shutil.rmtree(driver.directory)


def driver_dependency(driver: Driver) -> str:
    library(driver.libraries / "libdrm-fake.so", "1")
    return f"-L{driver.libraries}"


def refusal(person: Person, option: str, image: Path) -> str:
    """What a launch says that must not come about."""
    done = person.singrun("exec", option, image, "true")
    assert (done.returncode, done.stdout) == (255, b""), done
    return done.stderr.decode()


def without_effect(person: Person, kind: str, image: Path) -> str:
    """What a launch says that goes on without a driver; --fabric does not."""
    if kind == "fabric":
        return refusal(person, "--fabric", image)
    words = (f"--{kind}", image, "sh", "-c", "echo on; ls -A /.singularity.d")
    done = person.singrun("exec", *words)
    assert done.returncode == 0, done
    assert done.stdout == b"on\nactions\nenv\nrunscript\ntest\n"
    assert f"Without effect: --{kind}" in done.stderr.decode()
    return done.stderr.decode()


@pytest.mark.parametrize("options", [[], ["--contain"]])
def test_libraries_devices_and_programs_come_in(
    person: Person, driver: Driver, image: Path, options: list[str]
) -> None:
    words: list[str | Path] = [*options, "--nv", image]
    assert person.output("exec", *words, "probe", "libcuda.so.1") == "42\n"
    device = driver.directory / "nvidia0"
    assert person.output("exec", *words, "head", "-c1", device) == "\0"
    assert person.output("exec", *words, "nvidia-smi") == "one fake GPU\n"
    listing = person.output(
        "exec", *words, "ls", "/.singularity.d/libs", "/.singularity.d/bin"
    ).split()
    assert set(listing) >= {"libcuda.so.1", "libnvidia-ml.so.1", "nvidia-smi"}
    assert not {name for name in listing if name.startswith("libc.")}
    assert person.output("exec", image, "ls", "/.singularity.d") == (
        "actions\nenv\nrunscript\ntest\n"
    )


def test_the_images_own_libraries_come_first(person: Person, driver: Driver, image: Path) -> None:
    assert person.output("exec", "--nv", image, "probe", "libnvidia-ml.so.1") == "7\n"
    script = "echo $LD_LIBRARY_PATH; echo $PATH"
    paths = person.output("exec", "--nv", image, "sh", "-c", script).splitlines()
    assert paths[0] == "/opt/own:/.singularity.d/libs"
    assert paths[1].endswith(":/bin:/.singularity.d/bin")
    words = ("--nv", "--env", "LD_LIBRARY_PATH=/x", image)
    assert person.output("exec", *words, "sh", "-c", script).startswith("/x:/.singularity.d/libs\n")


def test_the_other_kinds_and_what_their_libraries_need(person: Person, image: Path) -> None:
    words = ("--rocm", "--fabric", image, "probe")
    assert person.output("exec", *words, "libhsa-runtime64.so.1") == "44\n"
    assert person.output("exec", *words, "libibverbs.so.1") == "45\n"


def test_what_the_site_lists(person: Person, driver: Driver, image: Path) -> None:
    ours = library(driver.directory / "lib/apart/libsite.so.9", "46")
    with driver.site.open("a") as site:
        site.write(f"nv library = {ours}\nnv file = {driver.directory}/kfd\n")
    assert person.output("exec", "--nv", image, "probe", "libsite.so.9") == "46\n"
    assert person.output("exec", "-c", "--nv", image, "ls", driver.directory / "kfd")
    driver.installed()
    with driver.site.open("a") as site:
        site.write("nv library =\nnv library = libsite*\n")
    assert person.output("exec", "--nv", image, "ls", "/.singularity.d/libs") == "libsite.so.9\n"


def test_a_plan_says_what_would_come(person: Person, image: Path) -> None:
    plan = person.output("exec", "--plan", "--nv", image, "true")
    assert plan.splitlines()[-1].startswith("2 libraries of the host on /.singularity.d/libs")


def test_a_library_that_needs_a_newer_c_library(
    person: Person, driver: Driver, image: Path, tmp_path: Path
) -> None:
    script = tmp_path / "versions"
    script.write_text("GLIBC_2.4 { global: old; };\nGLIBC_9.99 { global: future; } GLIBC_2.4;\n")
    stub = compiled(
        tmp_path / "libc.so.6",
        "int old(void) { return 0; }\nint future(void) { return 0; }\n",
        *("-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libc.so.6"),
        f"-Wl,--version-script={script}",
    )
    before = "int old(void); int future(void);"
    new = driver.libraries / "libcuda.so.1"
    library(new, "old() + future()", "-nostdlib", stub, before=before)
    output = refusal(person, "--nv", image)
    assert f"Cannot bring {new} into {image} (--nv)" in output
    assert "It needs GLIBC_9.99 of libc.so.6; the image's has up to GLIBC_2." in output
    assert "leave --nv out" in output


def test_a_library_for_another_machine(person: Person, driver: Driver, image: Path) -> None:
    foreign = driver.libraries / "libcuda.so.1"
    data = foreign.read_bytes()
    foreign.write_bytes(data[:18] + AARCH64 + data[20:])
    output = refusal(person, "--nv", image)
    assert f"Cannot bring {foreign} into {image}" in output
    assert "It is for aarch64, the image for x86_64." in output


def test_a_library_that_is_broken(person: Person, driver: Driver, image: Path) -> None:
    broken = driver.libraries / "libcuda.so.1"
    broken.write_bytes(broken.read_bytes()[:2000])
    assert "cannot be read: it is truncated" in refusal(person, "--nv", image)


def test_a_library_that_is_missing(person: Person, driver: Driver, image: Path) -> None:
    (driver.libraries / "libcuda.so.1").unlink()
    driver.installed()
    output = without_effect(person, "nv", image)
    assert "The host has no libcuda.so.1, which --nv needs" in output
    assert "Run on a node with a GPU" in output


def test_a_device_that_is_missing(person: Person, driver: Driver, image: Path) -> None:
    for kind, device in (("nv", "nvidia*"), ("rocm", "kfd"), ("fabric", "infiniband")):
        for path in driver.directory.glob(device):
            if path.is_char_device():
                path.unlink()
        output = without_effect(person, kind, image)
        assert f"There is no device {driver.directory}/{device}, which --{kind} needs" in output


def test_an_image_without_glibc(person: Person, bench: Bench) -> None:
    output = refusal(person, "--nv", bench.image)
    assert f"Cannot use --nv with {bench.image}" in output
    assert "no libc.so.6" in output


def test_an_image_whose_c_library_lies(person: Person, bench: Bench) -> None:
    tree = bench.directory / "lies"
    if not tree.exists():
        bench.variant("lies")
        (tree / "lib").mkdir()
        (tree / "lib/libc.so.6").write_bytes(b"\x7fELF\2\1" + b"\xff" * 500)
        (tree / "etc/ld.so.cache").write_bytes(b"glibc-ld.so.cache1.1" + b"\xff" * 500)
    output = refusal(person, "--nv", tree)
    assert "Its libc.so.6 cannot be read" in output


def test_what_the_site_always_brings_in(
    person: Person, driver: Driver, bench: Bench, image: Path
) -> None:
    with driver.site.open("a") as site:
        site.write("always use nv = yes\n")
    assert person.output("exec", image, "probe", "libcuda.so.1") == "42\n"
    assert person.output("exec", image, "nvidia-smi") == "one fake GPU\n"
    for words, value in ((["--no-nv"], ""), (["--nv", "--no-nv"], ""), ([], "1")):
        person.variables["APPTAINER_NO_NV"] = value
        done = person.singrun("exec", *words, image, "ls", "/.singularity.d")
        assert (done.stdout, done.stderr) == (b"actions\nenv\nrunscript\ntest\n", b"")
    del person.variables["APPTAINER_NO_NV"]
    done = person.singrun("exec", bench.image, "echo", "without glibc")
    assert (done.returncode, done.stdout) == (0, b"without glibc\n"), done
    output = done.stderr.decode()
    assert f"Without effect: always use nv, in {driver.site}" in output
    assert "no libc.so.6" in output
    (driver.directory / "nvidia0").unlink()
    (driver.directory / "nvidiactl").unlink()
    done = person.singrun("exec", image, "echo", "on")
    assert (done.returncode, done.stdout) == (0, b"on\n"), done
    assert f"There is no device {driver.directory}/nvidia*" in done.stderr.decode()


CUDA = """
#include <stdio.h>
int cuInit(unsigned), cuDeviceGetCount(int *);
int main(void) {
    int count = 0, failed = cuInit(0) || cuDeviceGetCount(&count);
    printf("%d\\n", count);
    return failed;
}
"""


@pytest.mark.skipif(not Path("/dev/nvidia0").exists(), reason="needs a GPU of NVIDIA")
def test_a_real_cuda_call(bench: Bench, tmp_path: Path) -> None:
    tree = bench.variant("cuda")
    stub = compiled(
        tmp_path / "libcuda.so.1",
        "int cuInit(unsigned f) { return f; }\nint cuDeviceGetCount(int *n) { return *n; }\n",
        *("-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"),
    )
    images.copy_program(compiled(bench.directory / "count", CUDA, stub), tree, "bin/count")
    for person in (bench.people["root, loop"], bench.people["user"]):
        person.variables.pop("SINGRUN_CONFIG", None)
        assert int(person.output("exec", "--nv", tree, "count")) > 0
