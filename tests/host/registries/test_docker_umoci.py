"""Layers and archives that real tools make, beside what umoci makes of them, entry by entry."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.bench.container_engines import Tool, buildah, dockerd, needs
from tests.bench.docker_images import (
    archive,
    directory,
    file,
    hardlink,
    image,
    symlink,
    write_layout,
)
from tests.host.registries.test_docker_build import Facts, facts, skopeo, unpacked

pytestmark = pytest.mark.root
BUSYBOX = Path("/bin/busybox")
CHANGES = """
export PATH=/bin; set -e
rm /t/gone /t/one
rm -r /whole; mkdir /whole; echo new > /whole/new
ln -s /t /t/link; ln /t/two /t/three; mkfifo /t/fifo
rm /was-file; mkdir /was-file; echo in > /was-file/in
rm -r /was-directory; ln -s t /was-directory
echo s > /t/setuid; chown 33:44 /t/setuid; chmod 6755 /t/setuid
mkdir -p /tmp/sticky; chmod 1777 /tmp/sticky
"""


def umoci(layout: str, where: Path) -> Facts:
    """Unpack LAYOUT:TAG by umoci."""
    needs("umoci")
    bundle = where / "bundle"
    argv = ["umoci", "unpack", "--image", layout, str(bundle)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return facts(bundle / "rootfs")


@pytest.mark.parametrize("form", ["gnu", "pax", "oldgnu"])
def test_a_layer_of_gnu_tar(form: str, tmp_path: Path) -> None:
    tree = os.fsencode(tmp_path / "tree")
    below = os.path.join(tree, b"caf\xe9", b"n" * 120, b"m" * 120)
    os.makedirs(below)
    for name in (b"sparse", b"dense", b"\xff" * 9, b"n" * 200):
        with open(os.path.join(below, name), "wb") as product:
            product.write(b"data" * 5000)
            product.truncate(20_000 if name != b"sparse" else 8 << 20)
            product.seek(0, os.SEEK_END)
            product.write(b"end")
    os.link(os.path.join(below, b"dense"), os.path.join(tree, b"linked"))
    os.symlink(b"\xfe/" + b"t" * 150, os.path.join(tree, b"link"))
    os.mkfifo(os.path.join(tree, b"fifo"))
    os.chown(os.path.join(tree, b"fifo"), 3_000_000, 70_000)
    os.setxattr(os.path.join(tree, b"linked"), "user.mine", b"\0hello\xff")
    os.utime(os.path.join(below, b"dense"), ns=(0, 1_600_000_000_000_000_000))
    attributes = ["--xattrs"] if form == "pax" else []
    tar = ["tar", "-C", str(tmp_path / "tree"), f"--format={form}", "--sparse", *attributes]
    layer = subprocess.check_output([*tar, "-cf", "-", "."])
    assert len(layer) < 4 << 20
    write_layout(tmp_path / "layout", {"one": image(layer, config={"Env": ["A=b"]})})
    result = unpacked("oci", f"{tmp_path}/layout:one", tmp_path)
    if form == "pax":
        expected = umoci(f"{tmp_path}/layout:one", tmp_path)
    else:  # whose sparse files umoci does not know
        (tmp_path / "wanted").mkdir()
        argv = ["tar", "-C", str(tmp_path / "wanted"), "--numeric-owner", "-xpf", "-"]
        subprocess.run(argv, input=layer, check=True)
        expected = facts(tmp_path / "wanted")
    assert result == expected
    (root,) = tmp_path.glob("root-*")
    sparse = os.path.join(os.fsencode(root), os.path.relpath(below, tree), b"sparse")
    assert os.stat(sparse).st_blocks * 512 < 1 << 20


@pytest.fixture
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a short name, that holds an image with a shell as a layout."""
    product = tmp_path_factory.mktemp("u")
    lower = archive(
        *(directory(name) for name in ("bin", "t", "whole", "was-directory", "tmp")),
        file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
        *(hardlink(f"bin/{name}", "bin/busybox", mode=0o755) for name in ("sh", "rm", "mkdir")),
        *(symlink(f"bin/{name}", "busybox") for name in ("chown", "chmod", "ln", "mkfifo")),
        *(file(f"t/{name}") for name in ("gone", "one", "two")),
        *(file(f"{name}/old") for name in ("whole", "was-directory")),
        file("was-file"),
    )
    write_layout(product / "layout", {"one": image(lower, config={"Env": ["A=b"]})})
    return product


def check(kind: str, path: Path, where: Path) -> None:
    """Compare what an archive becomes here with what skopeo and umoci make of it."""
    there = where / f"as-umoci-{path.name}"
    skopeo(f"{kind}:{path}", f"oci:{there}:one")
    expected = umoci(f"{there}:one", there)
    result = unpacked(kind, str(path), where)
    assert {name for name in result if name.startswith(("t/", "w"))} == {
        *(f"t/{name}" for name in ("two", "three", "link", "fifo", "setuid")),
        *("whole", "whole/new", "was-file", "was-file/in", "was-directory"),
    }
    assert result == expected


@pytest.mark.long
def test_an_archive_of_docker_that_has_run_commands(where: Path) -> None:
    skopeo(f"oci:{where}/layout:one", f"docker-archive:{where}/first.tar:ada/tool:1")
    with dockerd(where) as tool:
        tool("load", "-i", where / "first.tar")
        tool.runs("ada/tool:1", "/bin/sh", "-c", CHANGES, keep="changed")
        tool("commit", "changed", "ada/tool:2")
        tool("rm", "changed")
        tool("save", "-o", where / "saved.tar", "ada/tool:2")
    check("docker-archive", where / "saved.tar", where)


def test_archives_of_buildah_that_has_run_commands(where: Path) -> None:
    tool: Tool = buildah(where)
    container = tool("from", f"oci:{where}/layout:one").strip()
    tool("run", "--isolation=chroot", container, "/bin/sh", "-c", CHANGES)
    for kind, form in (("oci-archive", "oci"), ("docker-archive", "docker")):
        path = where / f"{form}.tar"
        tool("commit", "-q", "--format", form, container, f"{kind}:{path}:ada/tool:1")
        check(kind, path, where)
    tool("rm", container)
