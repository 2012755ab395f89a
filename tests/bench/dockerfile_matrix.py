"""One Dockerfile built by singbuild and by buildah: the two trees and configurations."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from singbuild.ext3.reader.image import Image
from tests.bench.builds import SINGBUILD
from tests.bench.container_engines import Tool
from tests.bench.dockerfile_features import Feature

SECRET = "sesame-open-the-door"
OURS = ("/.singularity.d", "/singularity", "/environment", "/.exec", "/.run", "/.shell", "/.test")
# What every image of ours has, for what a launch mounts there; FROM scratch has none of them.
MOUNT_POINTS = {
    "/dev", "/proc", "/sys", "/home", "/var", "/etc", "/root", "/tmp", "/var/tmp",
    *(f"/etc/{name}" for name in ("passwd", "group", "hosts", "resolv.conf", "localtime")),
}  # fmt: skip
FIELDS = ("Env", "Entrypoint", "Cmd", "Labels", "WorkingDir", "User", "Shell", "ExposedPorts",
          "Volumes", "StopSignal", "OnBuild")  # fmt: skip
Tree = dict[str, tuple[Any, ...]]


def by_singbuild(file: Path, feature: Feature, where: Path) -> tuple[Tree, dict[str, Any]]:
    """Build with singbuild; return what is in the image, and its configuration."""
    words = [*SINGBUILD, "build", "--no-cache", "-q"]
    words += [f"--build-arg={each}" for each in feature.arguments]
    words += ["--secret=id=token,env=TOKEN"] if feature.secret else []
    env = {**os.environ, "TOKEN": SECRET}
    done = subprocess.run(
        [*words, str(file), str(where / "a.img")],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with Image(where / "a.img") as image:
        tree: Tree = {}
        for entry in image.walk():
            path, inode = entry.shown, entry.inode
            if path.startswith(OURS):
                continue
            content = ""
            if stat.S_ISREG(inode.mode):
                content = hashlib.sha256(b"".join(image.stream(entry))).hexdigest()
            elif stat.S_ISLNK(inode.mode):
                content = image.target(entry).decode()
            tree[path] = (oct(inode.mode), inode.uid, inode.gid, content)
        note = image.find("/.singularity.d/container.json")
        assert note
        return tree, json.loads(image.read(note))


def by_buildah(
    file: Path, feature: Feature, where: Path, tool: Tool
) -> tuple[Tree, dict[str, Any]]:
    """Build with buildah, likewise."""
    if feature.plain:
        file = file.with_name("plain.Dockerfile")
    secret = where / "secret"
    secret.write_text(SECRET)
    words = [
        "build",
        "--isolation=chroot",
        "--tls-verify=false",
        "--no-cache",
        "--format=docker",
        "-q",
    ]
    words += [f"--build-arg={each}" for each in feature.arguments]
    words += [f"--secret=id=token,src={secret}"] if feature.secret else []
    # In a mount namespace of its own: what it mounts goes with it.
    build = ["unshare", "--mount", *tool.words, *words, "-f", str(file), str(file.parent)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    image = done.stdout.split()[-1]
    output = subprocess.check_output([*tool.words, "inspect", "--type", "image", image])
    config = json.loads(output)["Docker"]["config"]
    buildah = " ".join(tool.words)
    script = f"""set -e
    c=$({buildah} from {image}); m=$({buildah} mount $c); cd "$m"
    tar --numeric-owner -cf {where}/tree.tar .; {buildah} rm $c >/dev/null"""
    subprocess.run(["unshare", "--mount", "sh", "-c", script], check=True)
    return _of_archive(where / "tree.tar"), config


def _of_archive(path: Path) -> Tree:
    kinds = {tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK}
    tree: Tree = {}
    with tarfile.open(path) as archive:
        for info in archive:
            name = info.name.removeprefix(".") or "/"
            content = ""
            if info.isreg() or info.islnk():
                file = archive.extractfile(info)
                assert file
                content = hashlib.sha256(file.read()).hexdigest()
            elif info.issym():
                content = info.linkname
            mode = 0o777 if info.issym() else info.mode
            tree[name] = (
                oct(kinds.get(info.type, stat.S_IFREG) | mode),
                info.uid,
                info.gid,
                content,
            )
    return tree


def differences(ours: Tree, theirs: Tree) -> list[str]:
    """Return what is not the same, a line each."""
    lines = []
    for path in sorted({*ours, *theirs}):
        if path == "/" or (path not in theirs and path in MOUNT_POINTS):
            continue
        if ours.get(path) != theirs.get(path):
            lines.append(f"{path}: singbuild {ours.get(path)}, buildah {theirs.get(path)}")
    return lines


def config_differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return the fields of the configuration that are not the same."""
    lines = []
    for name in FIELDS:
        one, other = ours.get(name) or None, theirs.get(name) or None
        if name == "Labels" and other:
            other = {k: v for k, v in other.items() if not k.startswith("io.buildah")} or None
        if name == "Env":
            one, other = sorted(one or []), sorted(other or [])
        if one != other:
            lines.append(f"{name}: singbuild {one!r}, buildah {other!r}")
    return lines
