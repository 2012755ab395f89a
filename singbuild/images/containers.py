"""An image as a container image of one layer or more, for podman, docker, skopeo and registries.

For an archive the tree is read twice, once to learn the layer's size and digest, so that the file
can be written straight to a pipe. Equal images give equal bytes. Sources: OCI image specification,
"image-layout.md" and "config.md"; Docker's "Image Specification v1.2", "Combined Image JSON".
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from isal import isal_zlib

from singbuild.about import machine
from singbuild.errors import UsageError
from singbuild.ext3.node import shown
from singbuild.file_tree import REGULAR, Entry, FileTree, written
from singbuild.images import stage_layers
from singbuild.images.parts import HOME, labels
from singbuild.tar import write
from singbuild.tar.whiteouts import WHITEOUT
from singbuild.tree import chroot

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# With its environment, the program that follows. Not actions/run: Apptainer puts a runscript of its
# own into every image of a registry, which executes the entry point, which would execute that.
EXEC = f"/{HOME}/actions/exec"
RUNSCRIPT = f"{HOME}/entrypoint"  # a copy of the image's, which nobody replaces
PACKINGS: dict[str, tuple[str, Callable[[], Any]]] = {
    # isal packs about as well as zlib, several times as fast.
    "gzip": ("+gzip", lambda: isal_zlib.compressobj(3, wbits=31)),
    "zstd": ("+zstd", lambda: zstd.ZstdCompressor(level=3)),
}
_LAYOUT = b'{"imageLayoutVersion": "1.0.0"}'
_NAME = re.compile(r"[a-z0-9]+([._-]+[a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_OCI = "application/vnd.oci.image"
_BLOCK = tarfile.BLOCKSIZE
_VARIABLES = 128 << 10  # bytes of all: shlex takes as many seconds as a word has 100 KiB, squared

File = tuple[str, int, Iterable[bytes]]  # name in the archive, bytes, content


def archive(image: FileTree, form: str, name: str) -> Iterator[bytes]:
    """Yield an archive of the image. form: a key of FORMS; name: as NAME:TAG.

    Sockets are left out: no layer knows them; and what ``is_whiteout`` names. Raises DamagedImage.
    """
    total, size = hashlib.sha256(), 0
    for piece in _layer(image):
        total.update(piece)
        size += len(piece)
    config = _json(_configuration(image, [f"sha256:{total.hexdigest()}"]))
    layer = (total.hexdigest(), size, _layer(image))
    directories = set()
    for file in FORMS[form](config, layer, name):
        # Without members of their own, skopeo 1.9 gives the directories to root: users cannot.
        # https://github.com/containers/image/issues/1017
        for parent in reversed(PurePosixPath(file[0]).parents[:-1]):
            if parent not in directories:
                directories.add(parent)
                yield _directory(f"{parent}/")
        yield from _member(file)
    yield bytes(2 * _BLOCK)


def write_layout(
    image: FileTree,
    directory: Path,
    packing: str,
    annotations: Mapping[str, str],
    stages: Sequence[FileTree] = (),
) -> None:
    """Write an OCI layout of the image into an empty directory.

    packing: of the layers, a key of PACKINGS; stages: the trees of its build's stages, oldest
    first, each of which is a layer of its own. Raises DamagedImage, OSError.
    """
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    trees = [*stages, image]
    layers, diff_ids = [], []
    for number, tree in enumerate(trees):
        pieces = _layer(tree, trees[number - 1] if number else None)
        layer, diff_id = _write_layer(pieces, blobs, packing)
        layers.append(layer)
        diff_ids.append(diff_id)
    config = _json(_configuration(image, diff_ids))
    manifest = _manifest(config, layers, annotations)
    for text in (config, manifest):
        (blobs / _sha256(text)).write_bytes(text)
    (directory / "oci-layout").write_bytes(_LAYOUT)
    (directory / "index.json").write_bytes(_index(manifest, {}))


def _write_layer(pieces: Iterable[bytes], blobs: Path, packing: str) -> tuple[dict[str, Any], str]:
    """Write a layer under its digest; return its descriptor and its diff id."""
    suffix, compressor = PACKINGS[packing]
    tar, stored, packer = hashlib.sha256(), hashlib.sha256(), compressor()
    with (blobs / "layer").open("wb") as file:

        def put(piece: bytes) -> None:
            stored.update(piece)
            file.write(piece)

        for piece in pieces:
            tar.update(piece)
            put(packer.compress(piece))
        put(packer.flush())
        size = file.tell()
    (blobs / "layer").rename(blobs / stored.hexdigest())
    descriptor = _described(f"layer.v1.tar{suffix}", stored.hexdigest(), size)
    return descriptor, f"sha256:{tar.hexdigest()}"


def whiteout_warning(image: FileTree) -> str:
    """Return what to say of files that a layer cannot hold, "" when there are none."""
    lost = [entry.path for entry in image.walk() if is_whiteout(entry.path)]
    if not lost:
        return ""
    more = f" and {len(lost) - 1:,} more" if len(lost) > 1 else ""
    why = "in a container image a name that begins with .wh. removes another file"
    return f"{shown(lost[0])}{more} left out: {why}"


def is_whiteout(path: bytes) -> bool:
    """Whether a name means removal in a layer, or lies below one: OCI "layer.md", "Whiteouts"."""
    return path.startswith(WHITEOUT) or b"/" + WHITEOUT in path


def checked_name(name: str) -> str:
    """Return NAME:TAG, with the tag that it has or "latest". Raises UsageError."""
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, "latest"
    if not _NAME.fullmatch(repository) or not _TAG.fullmatch(tag):
        raise UsageError(
            f"{name!r} cannot be a container image's name",
            remedy="Write --name NAME:TAG: small letters, digits and . _ - in NAME, parted by /.",
        )
    return f"{repository}:{tag}"


def default_name(image: Path) -> str:
    """Return a name after the file's: My Tools.img is my-tools:latest."""
    words = re.findall("[a-z0-9]+", image.name.removesuffix(".img").lower())
    return f"{'-'.join(words) or 'image'}:latest"


def _oci(config: bytes, layer: File, name: str) -> Iterator[File]:
    digest, size, content = layer
    manifest = _manifest(config, [_described("layer.v1.tar", digest, size)], {})
    yield _file("oci-layout", _LAYOUT)
    yield _file("index.json", _index(manifest, {"org.opencontainers.image.ref.name": name}))
    # Debian 12's dockerd knows no layouts, and reads what an archive of its own says.
    yield _docker_manifest(f"blobs/sha256/{_sha256(config)}", f"blobs/sha256/{digest}", name)
    for text in (manifest, config):
        yield _file(f"blobs/sha256/{_sha256(text)}", text)
    yield f"blobs/sha256/{digest}", size, content


def _manifest(
    config: bytes, layers: Sequence[Mapping[str, Any]], annotations: Mapping[str, str]
) -> bytes:
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": _described("config.v1+json", _sha256(config), len(config)),
        "layers": layers,
    }
    return _json(manifest | ({"annotations": dict(annotations)} if annotations else {}))


def _index(manifest: bytes, annotations: Mapping[str, str]) -> bytes:
    entry = _described("manifest.v1+json", _sha256(manifest), len(manifest))
    entry["annotations"] = dict(annotations)
    return _json({"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": [entry]})


def _docker(config: bytes, layer: File, name: str) -> Iterator[File]:
    digest, size, content = layer
    place = f"{_sha256(config)}.json"
    yield _docker_manifest(place, f"{digest}.tar", name)
    yield _file(place, config)
    yield f"{digest}.tar", size, content


def _docker_manifest(config: str, layer: str, name: str) -> File:
    about = {"Config": config, "RepoTags": [name], "Layers": [layer]}
    return _file("manifest.json", _json([about]))


FORMS: dict[str, Callable[[bytes, File, str], Iterator[File]]] = {
    "oci": _oci,
    "docker-archive": _docker,
}


def _configuration(image: FileTree, diff_ids: Sequence[str]) -> dict[str, Any]:
    time = written(image.newest())
    return {
        "created": time,
        "architecture": machine(image),
        "os": "linux",
        "config": {
            "Env": _environment(image),
            "WorkingDir": "/",
            "Labels": labels(image) or {},
            # What ./image.img does, with the same arguments.
            **_command(image),
        },
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": time, "created_by": "singbuild export"} for _ in diff_ids],
    }


def _command(image: FileTree) -> dict[str, list[str]]:
    if not image.find(EXEC):
        return {"Cmd": ["/bin/sh"]}
    if _runscript(image):
        return {"Entrypoint": [EXEC, f"/{RUNSCRIPT}"]}
    return {"Entrypoint": [EXEC], "Cmd": ["/bin/sh"]}


def _runscript(image: FileTree) -> Entry | None:
    """Return the image's runscript: a file in the place of the link /singularity, or %runscript."""
    for name in ("singularity", f"{HOME}/runscript"):
        entry = image.find(name, follow=False)
        if entry and entry.inode.kind == REGULAR and entry.inode.permissions & 0o111:
            return entry
    return None


def _layer(image: FileTree, below: FileTree | None = None) -> Iterator[bytes]:
    """Yield the tree as an archive, a copy of its runscript before it.

    below: the tree of the layers below; what is there as well is left out.
    """
    if script := _runscript(image):
        content = image.read(script)
        info = tarfile.TarInfo(RUNSCRIPT)
        info.mode, info.mtime, info.size = 0o755, script.inode.mtime, len(content)
        yield write.packed(info)
        yield content
        yield bytes(-info.size % _BLOCK)
    own = RUNSCRIPT.encode()  # of an image that has been a container image before

    def is_left_out(path: bytes) -> bool:
        return is_whiteout(path) or path == own

    if below:
        yield from stage_layers.changes(below, image, is_left_out)
    else:
        yield from write.archive(image, is_left_out)


def _environment(image: FileTree) -> list[str]:
    """Return the variables that the image has from its source; its scripts set the others."""
    names = ("10-docker2singularity.sh", "10-source.sh")  # and an older version's
    entry = next(filter(None, (image.find(f"{HOME}/env/{name}") for name in names)), None)
    try:
        words = shlex.split(image.read(entry, _VARIABLES).decode()) if entry else []
    except ValueError:  # somebody's own text by now: the entry point executes it
        words = []
    variables = [word for word in words if word != "export" and "=" in word]
    has_path = any(word.startswith("PATH=") for word in variables)
    return variables if has_path else [f"PATH={chroot.PATH}", *variables]


def _member(file: File) -> Iterator[bytes]:
    name, size, content = file
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    yield info.tobuf(tarfile.PAX_FORMAT)
    yield from content
    yield bytes(-size % _BLOCK)


def _directory(name: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info.tobuf(tarfile.PAX_FORMAT)


def _file(name: str, content: bytes) -> File:
    return name, len(content), [content]


def _described(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": f"{_OCI}.{kind}", "digest": f"sha256:{digest}", "size": size}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
