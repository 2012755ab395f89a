"""The same recipe gives the same file, whoever builds it, where, and on which day."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.builds import SINGBUILD, Build
from tests.bench.singrun_images import ROOT

pytestmark = pytest.mark.root

LIBFAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
# Every program of the image sees another day; /tmp is emptied before the seal. Times of files stay
# as they are: libfaketime would shift what stat(2) tells, but not what utimensat(2) sets, and
# update-alternatives gives its links the time of what they lead to.
FAKED = """\
import os, shutil, sys
from singbuild.cli.main import main
from singbuild.tree import chroot

def call(root, argv, *, real=chroot.call, **more):
    if not (root / "tmp").is_dir():
        (root / "tmp").mkdir()
        (root / "tmp").chmod(0o1777)
    before = os.stat(root / "tmp")
    shutil.copy({library!r}, root / "tmp/faketime.so")
    copied = os.stat(root / "tmp")
    if argv[:2] == ["/usr/bin/env", "-i"]:
        argv = [*argv[:2], *(f"{{name}}={{value}}" for name, value in faked.items()), *argv[2:]]
    try:
        return real(root, argv, **more)
    finally:  # the directory's time is what it would be without the library
        after = os.stat(root / "tmp")
        os.unlink(root / "tmp/faketime.so")
        when = before if after.st_mtime_ns == copied.st_mtime_ns else after
        os.utime(root / "tmp", ns=(when.st_atime_ns, when.st_mtime_ns))

faked = {{"LD_PRELOAD": "/tmp/faketime.so", "FAKETIME": "+{days}d", "NO_FAKE_STAT": "1"}}
chroot.ENVIRONMENT |= faked
chroot.call = call
main()
"""
HOSTS = (
    {"umask": 0o022, "TZ": "UTC", "LANG": "C.UTF-8", "days": 0},
    {"umask": 0o077, "TZ": "Asia/Kathmandu", "LANG": "tr_TR.UTF-8", "days": 400},
)


def build(recipe: str, image: Path, host: dict[str, object], *words: str) -> str:
    """Build as on another host, in a directory of its own; return the image's SHA-256."""
    directory = image.parent
    command = SINGBUILD
    if host["days"]:
        command = (*SINGBUILD[:1], "-c", FAKED.format(library=LIBFAKETIME, days=host["days"]))
    env = os.environ | {"TZ": str(host["TZ"]), "LANG": str(host["LANG"])}
    env["SINGBUILD_TMPDIR"] = str(directory)
    if host["days"]:  # singbuild itself is less far away, or no mirror's certificate would do
        env |= {"LD_PRELOAD": LIBFAKETIME, "FAKETIME": "+5d"}
    subprocess.run(
        [*command, "-q", *words, recipe, str(image)],
        cwd=directory,
        env=env,
        umask=int(str(host["umask"])),
        check=True,
    )
    return hashlib.sha256(image.read_bytes()).hexdigest()


def twice(recipe: str, tmp_path: Path, *words: str) -> None:
    digests = []
    for number, host in enumerate(HOSTS):
        directory = tmp_path / f"host {number}"
        directory.mkdir()
        (directory / "source").symlink_to(tmp_path / "source")
        digests.append(build(recipe, directory / "a.img", host, *words))
    if digests[0] != digests[1]:
        pair = [str(tmp_path / f"host {n}" / "a.img") for n in (0, 1)]
        done = subprocess.run([*SINGBUILD, "diff", *pair], capture_output=True, text=True)
        pytest.fail(done.stdout)


def recipes(bootstrap: str) -> list[Path]:
    """The recipes of the repository that a backend begins; tests/long builds those of Debian."""
    result = sorted((ROOT / "recipes").glob("*.def"))
    return [path for path in result if f"Bootstrap: {bootstrap}" in path.read_text()]


@pytest.mark.parametrize("recipe", recipes("busybox"), ids=lambda path: path.stem)
def test_every_recipe_gives_one_image_with_its_lock(recipe: Path, tmp_path: Path) -> None:
    lock_and_build_twice(recipe, tmp_path)


def lock_and_build_twice(recipe: Path, tmp_path: Path) -> None:
    copy = tmp_path / recipe.name
    copy.write_bytes(recipe.read_bytes())
    subprocess.run([*SINGBUILD, "lock", str(copy)], check=True, stdout=subprocess.DEVNULL)
    twice(str(copy), tmp_path, "--no-cache", "--locked")


def test_a_check_builds_twice_and_lists_what_differs(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    honest = recipe("Bootstrap: busybox\n%post\n    date > /tmp/now\n")
    done = singbuild("--check-reproducible", honest, "a.img")
    assert done.returncode == 0, done.stderr
    assert "is reproducible" in done.stdout
    subprocess.run(["e2fsck", "-fn", tmp_path / "a.img"], check=True, capture_output=True)
    random = recipe("Bootstrap: busybox\n%post\n    date > /random; hostname >> /random\n")
    done = singbuild("--check-reproducible", random, "b.img")
    assert done.returncode == 1
    assert "changed: /random (content" in done.stdout
    assert "differ in 1 path" in done.stderr
    assert not (tmp_path / "b.img").exists()


def test_a_target_that_appears_during_a_check_is_kept(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    target = tmp_path / "a.img"
    path = recipe(f"Bootstrap: busybox\n%setup\n    echo another > {target}\n")
    done = singbuild("--check-reproducible", path, "a.img")
    assert done.returncode == 8, done.stderr
    assert target.read_text() == "another\n"
    target.unlink()
    assert singbuild("--check-reproducible", "--force", path, "a.img").returncode == 0
    assert target.read_bytes() != b"another\n"


LIBRARIES = f"""\
    ldd /usr/bin/date {LIBFAKETIME} | grep -o '/[^ :]*' | while read -r file; do
        mkdir -p "$SINGBUILD_ROOTFS/${{file%/*}}"
        cp -L "$file" "$SINGBUILD_ROOTFS/$file"
    done
    mkdir -p "$SINGBUILD_ROOTFS/usr/local/bin"
    cp /usr/bin/date "$SINGBUILD_ROOTFS/usr/local/bin/date"
    rm "$SINGBUILD_ROOTFS/bin/sh" # busybox's prefers its own date
    cp /bin/dash "$SINGBUILD_ROOTFS/bin/sh"
"""


@pytest.mark.skipif(not Path(LIBFAKETIME).exists(), reason="needs libfaketime")
@pytest.mark.parametrize("command", ["date +%A", "date +%H", "nproc", "uname -n"])
def test_a_check_is_made_on_another_day_and_host(
    command: str, recipe: Callable[[str], Path], singbuild: Build
) -> None:
    """By a date that is linked dynamically, which sees no more than the day or the hour."""
    if command == "nproc" and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one processor is not two")
    path = recipe(f"Bootstrap: busybox\n%setup\n{LIBRARIES}%post\n    {command} > /when\n")
    done = singbuild("--check-reproducible", path, "a.img")
    assert (done.returncode, "changed: /when" in done.stdout) == (1, True), done.stderr
    assert "clock: 25 hours later, by libfaketime" in done.stdout


def test_drift_from_the_lock_is_refused_before_anything_is_built(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    (tmp_path / "data.txt").write_text("data")
    path = recipe("Bootstrap: busybox\n%files\n    data.txt /data\n")
    missing = singbuild("--locked", path, "a.img")
    assert (missing.returncode, "singbuild lock" in missing.stderr) == (9, True)
    assert singbuild("lock", path).stdout == f"{tmp_path / 'recipe.lock.yaml'}\n"
    assert singbuild("--locked", path, "a.img").returncode == 0
    (tmp_path / "data.txt").write_text("other")
    drifted = singbuild("--locked", path, "b.img")
    assert drifted.returncode == 9
    assert "recipe.lock.yaml:" in drifted.stderr
    assert "files.data.txt: locked sha256:" in drifted.stderr
    assert not (tmp_path / "b.img").exists()


@pytest.mark.network
def test_a_package_version_that_the_mirror_no_longer_has(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    path = recipe("Bootstrap: debootstrap\nOSVersion: bookworm\n")
    assert singbuild("lock", path).returncode == 0
    file = tmp_path / "recipe.lock.yaml"
    lines = file.read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if line.strip() == "bash:") + 1
    assert "version:" in lines[at]
    lines[at] = "      version: 1.0-gone"
    file.write_text("\n".join(lines))
    done = singbuild("--locked", path, "a.img")
    assert done.returncode == 9
    assert f"recipe.lock.yaml:{at + 1}: pins.packages.bash.version: locked 1.0-gone" in done.stderr
    assert not (tmp_path / "a.img").exists()


def test_a_lock_of_another_recipe(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    other = tmp_path / "other.def"
    other.write_text("Bootstrap: busybox\n%post\n    true\n")
    singbuild("lock", "-o", "recipe.lock.yaml", other)
    done = singbuild("--locked", recipe("Bootstrap: busybox\n"), "a.img")
    assert done.returncode == 9
    assert "recipe.name: locked other.def, now recipe.def" in done.stderr


def test_what_post_installs_is_compared_with_the_lock_of_the_image(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path
) -> None:
    status = "Package: thing\\nStatus: install ok installed\\nVersion: 1\\nArchitecture: all\\n"
    text = (
        "Bootstrap: busybox\n%post\n    mkdir -p /var/lib/dpkg\n"
        f"    printf '{status}' > /var/lib/dpkg/status\n"
    )
    path = recipe(text)
    assert singbuild(path, "a.img").returncode == 0
    lock = singbuild("inspect", "--lock", "a.img").stdout
    assert "thing: '1'" in lock
    (tmp_path / "recipe.lock.yaml").write_text(lock)
    assert singbuild("--locked", path, "b.img").returncode == 0
    (tmp_path / "recipe.lock.yaml").write_text(lock.replace("thing: '1'", "thing: '0'"))
    drifted = singbuild("--locked", path, "c.img")
    assert drifted.returncode == 9
    assert "packages.deb.thing: locked 0, now 1" in drifted.stderr
    assert not (tmp_path / "c.img").exists()


def test_the_users_epoch_reaches_sections_and_the_image(
    recipe: Callable[[str], Path], singbuild: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    path = recipe('Bootstrap: busybox\n%post\n    echo "$SOURCE_DATE_EPOCH" > /epoch\n')
    assert singbuild(path, "a.img").returncode == 0
    script = "mkdir m; mount -o loop,ro a.img m; cd m; cat epoch; stat -c %Y epoch bin/busybox"
    output = subprocess.check_output(["unshare", "-m", "sh", "-c", script], cwd=tmp_path, text=True)
    assert output.split() == ["86400"] * 3
