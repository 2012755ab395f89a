"""Images of every kind of place, beside what umoci makes of them; whole builds with %post."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import singbuild_docker as backend

from singbuild import Rootfs, SourceError
from tests.bench import backend_alone
from tests.bench.builds import Build
from tests.bench.container_engines import needs
from tests.bench.docker_images import (
    archive,
    directory,
    entry,
    file,
    hardlink,
    image,
    opaque,
    symlink,
    whiteout,
    write_layout,
)
from tests.bench.docker_registry import genuine, push

pytestmark = pytest.mark.root
REPOSITORY = Path(__file__).parents[3]
CAPABILITY = b"\1\0\0\2\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0".decode("latin-1")
LOWER = archive(
    directory("./", mtime=1_500_000_000),
    directory("t", mode=0o2775, uid=7, gid=8),
    file("t/one", b"1", uid=1000, gid=1000),
    hardlink("t/two", "t/one"),
    hardlink("t/three", "t/one"),
    file("t/setuid", b"s", mode=0o6755, uid=33, gid=44),
    file("t/cap", b"c", pax_headers={"SCHILY.xattr.security.capability": CAPABILITY}),
    file("t/attr", b"a", pax_headers={"SCHILY.xattr.user.mine": "hello"}),
    file("t/far", b"f", uid=3_000_000, gid=3_000_000, mtime=0),
    file("t/old", b"o", mtime=-304_000_000),
    file("t/fine", b"n", pax_headers={"mtime": "1600000000.123456789"}),
    entry("t/null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
    entry("t/disk", tarfile.BLKTYPE, devmajor=7, devminor=0, mode=0o660, gid=6),
    entry("t/fifo", tarfile.FIFOTYPE, mode=0o622),
    directory("sticky", mode=0o1777),
    file("d/" + "/".join(["n" * 150] * 4), b"deep"),
    file("ümläut", b"u"),
    file("back\\slash", b"b"),
    symlink("link", "/t", uid=5, gid=6, mtime=9),
    symlink("dangling", "../../nowhere"),
    directory("opaque/sub"),
    file("opaque/sub/old"),
    file("becomes-directory"),
    directory("becomes-link"),
    file("becomes-link/x"),
    symlink("link-becomes-directory", "t"),
)
UPPER = archive(
    whiteout("t/three"),
    file("t/two", b"rewritten"),
    hardlink("t/four", "t/one"),
    directory("sticky", mode=0o700, uid=9),
    directory("opaque"),
    opaque("opaque"),
    file("opaque/new", b"n"),
    whiteout("becomes-directory"),
    directory("becomes-directory"),
    file("becomes-directory/in", b"i"),
    symlink("becomes-link", "t"),
    directory("link-becomes-directory"),
    file("link-becomes-directory/in", b"i"),
)
IMAGE = image(LOWER, UPPER, config={"Cmd": ["true"], "Env": ["A=b"]})
Facts = dict[str, tuple[Any, ...]]


def facts(root: Path) -> Facts:
    """Owner, mode, time, attributes, content and link group of every entry."""
    result: dict[str, tuple[Any, ...]] = {}
    groups: dict[int, list[str]] = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        name = str(path.relative_to(root))
        where = os.fsencode(path)
        attributes = os.listxattr(where, follow_symlinks=False)
        values = {each: os.getxattr(where, each, follow_symlinks=False) for each in attributes}
        content: Any = None
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            content = status.st_rdev
        if not stat.S_ISDIR(status.st_mode):
            groups.setdefault(status.st_ino, []).append(name)
        owner = (status.st_uid, status.st_gid)
        result[name] = (status.st_mode, owner, status.st_mtime_ns, values, content)
    for names in groups.values():
        for name in names:
            result[name] += (sorted(names),)
    # No entry names these directories, so their time is that of the unpacking; umoci also
    # gives the root itself the time at which it was done.
    for name, fact in result.items():
        if name[:2] in (".", "d", "d/") and stat.S_ISDIR(fact[0]):
            result[name] = fact[:2] + fact[3:]
    return result


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "layout", {"one": IMAGE})


def unpacked(kind: str, where: str, tmp_path: Path) -> Facts:
    """Resolve and unpack with one of the backends."""
    store, root = tmp_path / "store", tmp_path / f"root-{kind}-{time.monotonic_ns()}"
    store.mkdir(exist_ok=True)
    root.mkdir()
    source = backend_alone.source(store, arch="x86_64", From=where)
    request = replace(source, bootstrap=kind)
    pins = backend.singbuild_resolve(request)
    backend.singbuild_bootstrap(request, pins, Rootfs(root, request.report))
    assert backend.singbuild_defaults(request, pins, Rootfs(root, request.report)).environment == {
        "A": "b"
    }
    return facts(root)


def test_the_tree_is_what_umoci_makes_of_it(layout: Path, tmp_path: Path) -> None:
    needs("umoci")
    argv = ["umoci", "unpack", "--image", f"{layout}:one", str(tmp_path / "bundle")]
    subprocess.run(argv, check=True, capture_output=True)
    assert unpacked("oci", f"{layout}:one", tmp_path) == facts(tmp_path / "bundle/rootfs")


def skopeo(*words: str) -> None:
    needs("skopeo")
    argv = ["skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", *words]
    subprocess.run(argv, check=True, capture_output=True)


def test_all_places_of_one_image_give_one_tree(layout: Path, tmp_path: Path) -> None:
    expected = unpacked("oci", f"{layout}:one", tmp_path)
    skopeo(f"oci:{layout}:one", f"oci-archive:{tmp_path}/oci.tar:one")
    skopeo(f"oci:{layout}:one", f"docker-archive:{tmp_path}/docker.tar:ada/tool:1")
    for program in ("gzip", "xz", "bzip2"):
        subprocess.run([program, "-k", str(tmp_path / "docker.tar")], check=True)
    assert unpacked("oci-archive", f"{tmp_path}/oci.tar:one", tmp_path) == expected
    assert unpacked("oci-archive", f"{tmp_path}/oci.tar", tmp_path) == expected
    assert unpacked("docker-archive", f"{tmp_path}/docker.tar", tmp_path) == expected
    assert unpacked("docker-archive", f"{tmp_path}/docker.tar:ada/tool:1", tmp_path) == expected
    for packed in ("gz", "xz", "bz2"):
        assert unpacked("docker-archive", f"{tmp_path}/docker.tar.{packed}", tmp_path) == expected
    with genuine(tmp_path) as name:
        skopeo("--format=v2s2", f"oci:{layout}:one", f"docker://{name}/docker:2")
        assert unpacked("docker", f"{name}/docker:2", tmp_path) == expected


@pytest.mark.parametrize(
    ("kind", "where", "output"),
    [
        ("oci", "{layout}:two", "no such image in the layout"),
        ("oci", "{tmp}", "has no index.json"),
        ("oci-archive", "{layout}/index.json", "is no tar archive"),
        ("docker-archive", "{tmp}/empty.tar", "has no manifest.json"),
    ],
)
def test_what_is_no_image_is_named(
    layout: Path, tmp_path: Path, kind: str, where: str, output: str
) -> None:
    (tmp_path / "empty.tar").write_bytes(archive())
    with pytest.raises(SourceError, match=output):
        unpacked(kind, where.format(layout=layout, tmp=tmp_path), tmp_path)


def test_a_layout_that_lies_is_refused(layout: Path, tmp_path: Path) -> None:
    blob = layout / "blobs" / IMAGE.layers[0].replace(":", "/")
    good = blob.read_bytes()
    blob.write_bytes(good[:10] + bytes([good[10] ^ 1]) + good[11:])
    with pytest.raises(SourceError, match=IMAGE.layers[0]):
        unpacked("oci", str(layout), tmp_path)
    blob.write_bytes(good + b"\0")
    with pytest.raises(SourceError, match=f"{IMAGE.layers[0]}.*bytes, not the"):
        unpacked("oci", str(layout), tmp_path)


AS_USER = """
import json, sys
from pathlib import Path
from singbuild.tar.extract import Unpacker
from tests.bench.backend_alone import Recorder
report = Recorder()
with Unpacker(Path(sys.argv[1]), report, whiteouts=True) as unpacker:
    for path in sys.argv[2:]:
        unpacker.apply([Path(path).read_bytes()])
print(json.dumps([report.warnings, sorted(map(bytes.decode, unpacker.ownership.owners))]))
"""


def test_an_ordinary_user_gets_all_but_devices_and_owners(tmp_path_factory: Any) -> None:
    base = Path("/tmp") / f"singbuild-test-{os.getpid()}"
    base.mkdir(mode=0o777)
    try:
        base.chmod(0o777)
        (base / "1.tar").write_bytes(LOWER)
        (base / "2.tar").write_bytes(UPPER)
        argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        argv += ["unshare", "-r", "/usr/bin/env", f"PYTHONPATH={REPOSITORY}", sys.executable]
        argv += ["-c", f"import os; os.mkdir('{base}/root')\n{AS_USER}"]
        argv += [f"{base}/root", f"{base}/1.tar", f"{base}/2.tar"]
        done = subprocess.run(argv, cwd="/", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        warnings, owners = json.loads(done.stdout)
        assert any("device nodes are left out" in line for line in warnings)
        assert "t/far" in owners
        assert (base / "root/t/two").read_bytes() == b"rewritten"
        assert not (base / "root/t/null").exists()
        assert stat.S_ISFIFO((base / "root/t/fifo").stat().st_mode)
    finally:
        shutil.rmtree(base)


@pytest.fixture(scope="module")
def python_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with an image of this host's Python and busybox, as library/python:3."""
    needs("busybox")
    where = tmp_path_factory.mktemp("python")
    libraries = subprocess.run(["ldd", "/usr/bin/python3"], capture_output=True, text=True).stdout
    paths = [word for word in libraries.split() if word.startswith("/")]
    names = ["usr/bin/python3", "usr/lib/python3.11", *(path.lstrip("/") for path in paths)]
    argv = ["tar", "-C", "/", "-ch", "--exclude=__pycache__", "--exclude=test", "-f", "-", *names]
    tar = subprocess.run(argv, capture_output=True).stdout
    shell = archive(
        file("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755),
        *(symlink(f"bin/{name}", "busybox") for name in ("sh", "cat", "mkdir", "grep", "true")),
        directory("etc"),
        file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
    )
    path = "PATH=/usr/local/bin:/usr/bin:/bin"
    snake = image(tar, shell, config={"Env": [path, "LANG=C.UTF-8"], "Cmd": ["python3"]})
    with genuine(where) as name:
        push(snake, name, "library/python", "3")
        yield name


def recipe_text(server: str) -> str:
    text = (REPOSITORY / "recipes/docker-python.def").read_text()
    return text.replace("#Registry: 127.0.0.1:5000", f"Registry: {server}").replace(
        "From: python:3", "From: library/python:3"
    )


def test_the_recipe_builds_and_greets(
    singbuild: Build, recipe: Callable[[str], Path], tmp_path: Path, python_image: str
) -> None:
    path = recipe(recipe_text(python_image))
    done = singbuild(path, "a.img")
    assert done.returncode == 0, done.stderr
    launcher = Path(sys.executable).parent / "singrun"
    argv = [str(launcher), "run", str(tmp_path / "a.img"), "Ada"]
    out = subprocess.run(argv, capture_output=True, text=True)
    assert out.stdout.startswith("Hello Ada: this is Python 3."), out.stderr
    argv = [str(launcher), "exec", str(tmp_path / "a.img"), "sh", "-c", "echo $LANG"]
    assert subprocess.run(argv, capture_output=True, text=True).stdout == "C.UTF-8\n"
    assert singbuild("--force", path, "b.img").returncode == 0
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()


@pytest.mark.root_itself("it mounts the disk; for users: test_places.py")
def test_a_full_disk_is_said_and_leaves_nothing(
    recipe: Callable[[str], Path], tmp_path: Path, python_image: str
) -> None:
    path = recipe(recipe_text(python_image))
    small = tmp_path / "small"
    small.mkdir()
    script = (
        f"truncate -s 80M disk && mke2fs -q -t ext4 -O ^has_journal -m 0 disk && "
        f"mount -o loop disk {small} && mkdir {small}/cache && "
        f"exec env SINGBUILD_TMPDIR={small} {sys.executable} -m singbuild --no-cache {path} a.img"
    )
    argv = ["unshare", "-m", "sh", "-c", script]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 5, done.stderr
    assert "full" in done.stderr or "left" in done.stderr
    assert not (tmp_path / "a.img").exists()
