"""What sections see of the host by --bind, --mount and --nv, and other options of sites."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from singbuild.ext3.reader.image import Image
from tests.bench.builds import Build
from tests.bench.singrun_images import ROOT

pytestmark = pytest.mark.root

HEAD = "Bootstrap: busybox\n"


def names(image: Path) -> set[bytes]:
    with Image(image) as opened:
        return {entry.path for entry in opened.walk()}


def read(image: Path, path: str) -> str:
    with Image(image) as opened:
        entry = opened.find(path)
        assert entry
        return opened.read(entry).decode()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("of the host\n")
    return tmp_path / "data"


def test_sections_see_what_is_bound_and_the_image_does_not_have_it(
    data: Path, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    text = (
        f"{HEAD}%post\n    cat /data/file /etc/of-host > /seen; echo back > /data/back\n"
        "    ! echo no > /etc/of-host\n    ls -ld /lib64/deep/x || true\n"
        "%test\n    grep host /data/file\n"
    )
    words = [f"--bind={data}:/data", f"--mount=type=bind,src={data}/file,dst=/etc/of-host,ro"]
    done = singbuild(*words, recipe(text), "a.img")
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "a.img", "/seen") == "of the host\n" * 2
    assert (data / "back").read_text() == "back\n"
    result = names(tmp_path / "a.img")
    assert not {b"data", b"etc/of-host"} & result
    record = json.loads(read(tmp_path / "a.img", "/.singularity.d/build.json"))
    assert record["host"] == [f"{data}:/data", f"{data}/file:/etc/of-host:ro"]
    assert "the bits of the image depend on it" in done.stderr


def test_what_a_section_read_of_the_host_is_in_no_cache(
    data: Path, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    path = recipe(f"{HEAD}%post\n    cat /data/file > /seen\n")
    for text in ("one", "two"):
        (data / "file").write_text(text)
        assert singbuild("--force", "-B", f"{data}:/data", path, "a.img").returncode == 0
        assert read(tmp_path / "a.img", "/seen") == text


def test_a_link_in_the_image_leads_no_bind_out_of_it(
    data: Path, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    text = f"{HEAD}%setup\n    ln -s {outside} $SINGBUILD_ROOTFS/data\n%post\n    ls /data/\n"
    done = singbuild(f"--bind={data}:/data/deep", recipe(text), "a.img")
    assert done.returncode == 0, done.stderr
    assert not [*outside.iterdir()]


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("/nowhere:/x", "Cannot bind /nowhere"),
        ("/etc:/", "Cannot bind on /"),
        ("/etc:/proc/x", "have a /dev, /proc and /sys of their own"),
        ("a.img:/x:image-src=/", "Cannot bind"),
    ],
)
def test_what_cannot_be_bound_is_said(
    word: str, why: str, recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    done = singbuild(f"--bind={word}", recipe(HEAD), "a.img")
    assert done.returncode == 2
    assert why in done.stderr
    assert not (tmp_path / "a.img").exists()


def test_only_the_sections_that_are_named_are_done(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    path = recipe(
        f"{HEAD}%setup\n    touch $SINGBUILD_ROOTFS/of-setup\n%post\n    touch /of-post\n"
        "%appinstall one\n    touch /of-app\n%test\n    false\n"
    )
    marks = {b"of-setup", b"of-post", b"of-app"}
    for word, expected in (
        ("post", {b"of-post"}),
        ("none", set()),
        ("setup,post", {*marks} - {b"of-app"}),
    ):
        assert singbuild("--force", f"--section={word}", path, "a.img").returncode == 0
        assert names(tmp_path / "a.img") & marks == expected
    assert "there is no section poost" in singbuild("--section=poost", path, "b.img").stderr


def test_fix_perms_lets_the_owner_in(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    path = recipe(
        f"{HEAD}%post\n    mkdir -m 0055 /d; touch /d/f; chmod 044 /d/f; touch /x; chmod 4011 /x\n"
    )
    modes = {}
    for word in ("--fix-perms", "--quiet"):
        assert singbuild("--force", word, path, "a.img").returncode == 0
        with Image(tmp_path / "a.img") as image:
            result = {e.path: stat.S_IMODE(e.inode.mode) for e in image.walk()}
        modes[word] = [result[name] for name in (b"d", b"d/f", b"x")]
    assert modes == {"--fix-perms": [0o755, 0o644, 0o4711], "--quiet": [0o55, 0o44, 0o4011]}


def test_a_build_argument_without_use_is_warned_of_when_that_is_asked_for(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    path = recipe(f"{HEAD}%arguments\n    a=1\n%post\n    echo {{{{ a }}}} > /a\n")
    (tmp_path / "args").write_text("c=4\n")
    words = ["--build-arg=a=2", "--build-arg=b=3", "--build-arg-file=args"]
    assert singbuild(*words, path, "a.img").returncode == 3
    done = singbuild("--warn-unused-build-args", *words, path, "a.img")
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "a.img", "/a") == "2\n"
    assert "--build-arg b: the recipe has no such argument" in done.stderr
    assert "--build-arg c: the recipe has no such argument" in done.stderr
    for command in ("plan", "lock"):
        assert singbuild(command, *words, path).returncode == 3
        done = singbuild(command, "--warn-unused-build-args", *words, path)
        assert done.returncode == 0, done.stderr
        assert "--build-arg b: the recipe has no such argument" in done.stderr


def test_what_a_test_writes_is_in_no_image(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    path = recipe(f"{HEAD}%test\n    echo x > /of-test; rm /bin/sh; chmod 700 /usr\n")
    assert singbuild("--no-cache", "--writable-tmpfs", path, "a.img").returncode == 0
    assert singbuild("--no-cache", "--notest", path, "b.img").returncode == 0
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()


def test_the_spelling_of_singularity(
    data: Path, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    path = recipe(f"{HEAD}%post\n    cat /data/file > /seen\n")
    words = ["--bind", f"{data}:/data:ro", "--fix-perms", "--writable-tmpfs", "--no-https"]
    argv = [str(ROOT / "bin/singularity"), "build", *words, str(tmp_path / "a.sif"), str(path)]
    places = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"PATH": places}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    launch = subprocess.run(
        [sys.executable, "-m", "singrun", "exec", tmp_path / "a.sif", "cat", "/seen"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert launch.stdout == "of the host\n"


def test_sections_have_the_libraries_and_devices_of_the_driver(
    recipe: Callable[[str], Path],
    singbuild: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A driver that is none: a library, a program, and a device that is another zero(4)."""
    places = {
        name: tmp_path / name for name in ("libcuda.so.1", "tool", "site.conf", "cache", "so")
    }
    argv = ["gcc", "-shared", "-x", "c", "/dev/null", "-Wl,-soname,libcuda.so.1", "-o"]
    subprocess.run([*argv, places["libcuda.so.1"]], check=True)
    places["so"].write_text(f"{tmp_path}\n")
    files = ("-C", places["cache"], "-f", places["so"])
    subprocess.run(["/sbin/ldconfig", "-X", *files], check=True)
    places["tool"].write_text("#!/bin/sh\necho one fake GPU\n")
    places["tool"].chmod(0o755)
    device = Path(f"/dev/singbuild-fake-{os.getpid()}/zero")
    device.parent.mkdir()
    os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    try:
        places["site.conf"].write_text(
            f"linker cache = {places['cache']}\nnv library =\nnv library = libcuda.so*\n"
            f"nv device =\nnv device = {device}\nnv program =\nnv program = {places['tool']}\n"
        )
        monkeypatch.setenv("SINGRUN_CONFIG", str(places["site.conf"]))
        path = recipe(
            f"{HEAD}%setup\n    mkdir -p $SINGBUILD_ROOTFS/lib/x86_64-linux-gnu\n"
            "    cp /lib/x86_64-linux-gnu/libc.so.6 $SINGBUILD_ROOTFS/lib/x86_64-linux-gnu\n"
            "%post\n    tool > /seen; echo $LD_LIBRARY_PATH >> /seen\n"
            f"    ls /.singularity.d/libs >> /seen; head -c 4 {device} | wc -c >> /seen\n"
        )
        done = singbuild("--nv", path, "a.img")
    finally:
        device.unlink()
        device.parent.rmdir()
    assert done.returncode == 0, done.stderr
    text = read(tmp_path / "a.img", "/seen")
    assert text == "one fake GPU\n/.singularity.d/libs\nlibcuda.so.1\n4\n"
    result = names(tmp_path / "a.img")
    assert not {b".singularity.d/libs/libcuda.so.1", b".singularity.d/bin"} & result
