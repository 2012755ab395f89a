"""FUSE programs of both kinds, of libfuse 2 and of libfuse 3, and those that refuse to start."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from singrun.images import fuse
from singrun.verbs import kernel
from tests.bench import singrun_images as images
from tests.bench.host import wait_until
from tests.bench.singrun_images import Bench, Person

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def bench(bench: Bench) -> Bench:
    words = ["mksquashfs", str(bench.tree), str(bench.directory / "image.sqfs")]
    subprocess.run([*words, "-quiet", "-no-progress"], check=True)
    for person in bench.people.values():
        cache = bench.directory / f"cache-{person.name}"
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(0o700)
        shutil.chown(cache, person.uid, person.gid)
        person.variables["SINGRUN_CACHEDIR"] = str(cache)
    return bench


@pytest.fixture
def refusing(bench: Bench) -> Iterator[Person]:
    """An ordinary user on whose PATH a fuse2fs does not understand its options."""
    user, place = bench.people["user"], bench.directory / "refusing"
    place.mkdir()
    output = "fuse: unknown option(s): -o kernel_cache"
    for name in ("fuse2fs", "fuse-overlayfs"):
        images.write_script(place / name, f"#!/bin/sh\necho '{output}' >&2\nexit 1\n")
    before, cache = dict(user.variables), bench.directory / "refusing-cache"
    cache.mkdir()
    shutil.chown(cache, user.uid, user.gid)
    user.variables["PATH"] = f"{place}:/usr/bin:/bin:/usr/sbin:/sbin"
    user.variables["SINGRUN_CACHEDIR"] = str(cache)
    yield user
    user.variables = before
    shutil.rmtree(place)
    shutil.rmtree(cache)


@pytest.mark.parametrize("name", ["fuse2fs", "squashfuse", "squashfuse_ll", "fuse-overlayfs"])
def test_the_library_of_a_program_is_told_without_running_it(name: str) -> None:
    program = shutil.which(name)
    assert program
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    assert fuse.is_of_libfuse3(program) == ("libfuse3" in linked)
    assert ("libfuse.so.2" in linked) != fuse.is_of_libfuse3(program)


def test_a_daemon_of_libfuse_3_holds_no_mount(bench: Bench) -> None:
    """Not even its own, so that the end of the program is the end of the mount."""
    user, image = bench.people["user"], bench.directory / "image.sqfs"
    script = "echo up; read pid; grep -l image.sqfs /proc/self/mountinfo /proc/$pid/mountinfo"
    pipe = subprocess.PIPE
    with subprocess.Popen(
        user.words(user.launcher, "exec", image, "sh", "-c", script),
        stdin=pipe,
        stdout=pipe,
        env=user.environment(),
        cwd="/",
        text=True,
    ) as child:
        assert child.stdout
        child.stdout.readline()
        (daemon,) = waited_for(bench)
        output = child.communicate(f"{daemon}\n")[0]
    assert output == "/proc/self/mountinfo\n"
    images.wait_for_daemons(str(bench.directory))


@pytest.mark.parametrize("name", ["image.img", "image.sqfs"])
def test_the_kernel_knows_that_a_fuse_mount_is_read_only(bench: Bench, name: str) -> None:
    """Else each read makes it ask anew for a file's attributes."""
    script = r"grep -o ' / / .* - fuse[^ ]* .*' /proc/self/mountinfo"
    way = "fuse2fs" if name == "image.img" else "squashfuse"
    words = ("--mount-with", way, bench.directory / name, "sh", "-c", script)
    line = bench.people["user"].output("exec", *words)
    assert line.split()[-1].split(",")[0] == "ro", line


def library_read(bench: Bench, image: Path) -> list[str]:
    """Start a program of an image; return the calls that had its C library read ahead."""
    user, trace = bench.people["user"], Path(f"/var/tmp/singrun-trace-{os.getpid()}")
    trace.touch()
    trace.chmod(0o666)
    strace = ("strace", "-qq", "-y", "-e", "trace=fadvise64", "-o", trace)
    done = user.call(*strace, user.launcher, "exec", "--mount-with", "squashfuse", image, "true")
    assert (done.returncode, done.stderr) == (0, b""), done
    lines = trace.read_text().splitlines()
    trace.unlink()
    images.wait_for_daemons(str(bench.directory))
    return [line for line in lines if "/usr/lib/abi/libc.so.6" in line]


def test_squashfuse_reads_the_c_library_in_order(bench: Bench) -> None:
    loader = fuse._LOADERS.get(os.uname().machine)
    if not loader:
        pytest.skip("not known for this machine")
    tree, image = bench.variant("with-library"), bench.directory / "with-library.sqfs"
    (tree / "usr/lib/abi").mkdir(parents=True)
    (tree / "usr/lib/abi/ld.so").write_bytes(b"")
    place = tree / loader.lstrip("/")
    place.parent.mkdir(exist_ok=True)
    place.symlink_to("/usr/lib/abi/ld.so")
    library = tree / "usr/lib/abi/libc.so.6"
    words: list[str | Path] = ["mksquashfs", tree, image]
    words += ["-quiet", "-no-progress", "-noappend"]
    library.write_bytes(bytes(range(256)) * 1100)
    subprocess.run(words, check=True)
    calls = library_read(bench, image)
    assert [line.split(", ")[1] for line in calls] == ["0", "131072", "262144"]
    library.unlink()
    os.mkfifo(library)  # nothing waits for a writer
    subprocess.run(words, check=True)
    assert library_read(bench, image) == []


def waited_for(bench: Bench) -> list[int]:
    result: list[int] = []

    def there() -> bool:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            words = images.read(path).split("\0")
            if "squashfuse" in words[0] and any(str(bench.directory) in word for word in words):
                result.append(int(path.parts[2]))
        return bool(result)

    wait_until(there)
    return sorted(set(result))


def test_a_program_that_refuses_is_no_strategy(bench: Bench, refusing: Person) -> None:
    done = refusing.singrun("exec", "--debug", bench.image, "echo", "fine")
    assert (done.returncode, done.stdout) == (0, b"fine\n"), done
    assert b"unknown option" in done.stderr
    assert b"unpack mounts" in done.stderr


def test_when_both_refuse_both_are_named(bench: Bench, refusing: Person) -> None:
    refusing.variables["SINGRUN_CACHEDIR"] = "/proc/nowhere"
    done = refusing.singrun("exec", bench.image, "true")
    assert done.returncode == 255
    for word in (b"fuse2fs: fuse2fs cannot mount", b"unknown option", b"unpack: "):
        assert word in done.stderr, done


def test_one_that_is_wished_for_is_the_only_one(bench: Bench, refusing: Person) -> None:
    done = refusing.singrun("exec", "--mount-with", "fuse2fs", bench.image, "true")
    assert done.returncode == 255
    assert b"unknown option" in done.stderr
    assert b"unpack" not in done.stderr


def test_the_doctor_mounts_an_image_by_every_program(bench: Bench, refusing: Person) -> None:
    output = refusing.call(refusing.launcher, "doctor").stdout.decode()
    for name in ("fuse2fs", "fuse-overlayfs"):
        assert re.search(rf"^no +{name}: .*cannot mount.*unknown option", output, re.M), output
    for name in ("squashfuse", "debugfs", "unsquashfs"):
        assert re.search(rf"^ok +{name}: /.*, works$", output, re.M), output
    assert "Images are mounted by: unpack\n" in output
    assert list(Path(refusing.variables["SINGRUN_CACHEDIR"]).iterdir()) == []
    images.wait_for_daemons("singrun-trial")


def test_what_the_doctor_cannot_try_is_not_said_to_work(bench: Bench) -> None:
    for person in bench.people.values():
        output = person.call(person.launcher, "doctor").stdout.decode()
        for name in ("fuse2fs", "squashfuse", "fuse-overlayfs", "debugfs", "unsquashfs"):
            assert re.search(rf"^ok +{name}: /.*, works$", output, re.M), output
    no_device = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", "/dev/fuse"]
    argv = [*no_device, "-e", "inject=openat:error=ENODEV", str(bench.launcher), "doctor"]
    output = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^ok +fuse-overlayfs: /.*, not tried$", output, re.M), output
    images.wait_for_daemons("/task/root")


@pytest.mark.parametrize(
    ("call", "since"), [("openat2", "5.6"), ("mount_setattr", "5.12"), ("fsconfig", "5.2")]
)
def test_the_doctor_names_the_kernel_that_is_needed(bench: Bench, call: str, since: str) -> None:
    old = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={call}:error=ENOSYS"]
    done = subprocess.run([*old, bench.launcher, "doctor"], capture_output=True, text=True)
    result = re.search(
        rf"^MISSING +{call[:2]}.*\n +-> Use Linux {re.escape(since)} ", done.stdout, re.M
    )
    assert result, done
    bind = ["-B", "/usr:/mnt:ro"]  # without it root's launch sets no attributes of a mount
    launch = subprocess.run(
        [*old, bench.launcher, "exec", *bind, bench.image, "true"], capture_output=True, text=True
    )
    assert launch.returncode == 255
    assert "singrun doctor" in launch.stderr


def test_the_table_in_the_documents_is_the_doctors() -> None:
    table = (images.ROOT / "docs/runtime.md").read_text()
    for call, since, _ in kernel.CALLS:
        assert f"| `{call}` | {since} |" in table
    assert f"| overlay in user namespaces | {kernel.OVERLAY} |" in table
