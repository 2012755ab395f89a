"""Images in files: OCI layouts, and the archives that `docker save` and skopeo write.

A tar archive is not unpacked: what is asked for is read from where it lies in it. Sources: OCI
image specification, "image-layout.md"; Docker's "Image Specification v1.2", "Combined Image JSON".
"""

from __future__ import annotations

import hashlib
import posixpath
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from singbuild import RecipeKeyError, SourceError
from singbuild.compression import MAGIC, inflated, packing_of
from singbuild_docker import manifest
from singbuild_docker.image import Image, Read, Store
from singbuild_docker.layers import check_digest
from singbuild_docker.manifest import Descriptor, Layer

PIECE = 1 << 18  # bytes
MOST_MEMBERS = 100_000
MOST_HEADERS = 256 << 20  # bytes of the headers of all members
MOST_LINKS = 40
LABEL = "org.opencontainers.image.ref.name"


class Files(Protocol):
    """Named files of a directory or an archive."""

    def open(self, name: str) -> BinaryIO:
        """Open one. Raises SourceError when it is not there."""


class Directory:
    """The files of a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, name: str) -> BinaryIO:
        """Open a file below the directory."""
        try:
            return (self.path / name).open("rb")
        except OSError as error:
            raise _missing(self.path, name, error.strerror or "") from error


class _Headers:
    """An archive's headers: tarfile reads each whole, whatever its size, and keeps it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._room = file, MOST_HEADERS
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """Return the next bytes. Raises ValueError beyond the limit of all."""
        self._room -= size
        if self._room < 0:
            raise ValueError(f"its headers have over {MOST_HEADERS:,} bytes")
        return self._file.read(size)


class Archive:
    """The files of an uncompressed tar archive."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.names: dict[str, tarfile.TarInfo] = {}
        try:
            # "r:": tarfile itself would unpack without any bound; opened_archive() has done it.
            headers = cast("BinaryIO", _Headers(file))
            self.tar = tarfile.open(fileobj=headers, mode="r:")  # noqa: SIM115 - as long as file
            for number, member in enumerate(self.tar):  # which keeps each
                if number == MOST_MEMBERS:
                    raise ValueError(f"it has over {MOST_MEMBERS:,} members")
                # Of two members with one name the last counts, as for tar(1).
                self.names[member.name.removeprefix("./")] = member
            self.tar.fileobj = file
        # RecursionError: of headers before headers, which tarfile reads by calling itself.
        except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
            raise SourceError(f"{path}: is no tar archive", why=str(error)) from error

    def open(self, name: str) -> BinaryIO:
        """Open a member; `docker save` makes links of layers that occur twice."""
        member_name = name
        # Links may lead in a circle; 40 are what the kernel follows: path_resolution(7).
        for _ in range(MOST_LINKS):
            member = self.names.get(member_name)
            if member is None:
                raise _missing(self.path, name, "no such member")
            if member.isreg():
                return self.tar.extractfile(member)  # type: ignore[return-value]  # IO[bytes]
            if member.islnk():
                member_name = member.linkname
            elif member.issym():
                above = posixpath.dirname(member_name)
                member_name = posixpath.normpath(posixpath.join(above, member.linkname))
            else:
                raise _missing(self.path, name, "it is no file")
        raise _missing(self.path, name, "its links lead in a circle")


@contextmanager
def opened_archive(path: Path, scratch: Path) -> Iterator[Archive]:
    """Open a tar archive, maybe compressed; then it is inflated into ``scratch`` first."""
    with _readable(path).open("rb") as file, tempfile.TemporaryFile(dir=scratch) as plain:
        start = file.read(MAGIC)
        file.seek(0)
        if packing_of(start) != "plain":
            for piece in inflated(_pieces(file), ""):
                plain.write(piece)
            plain.seek(0)
            yield Archive(path, plain)
        else:
            yield Archive(path, file)


@contextmanager
def opened_files(path: Path, scratch: Path) -> Iterator[Files]:
    """Open an OCI layout: a directory, or an archive of one."""
    if path.is_dir():
        yield Directory(path)
    else:
        with opened_archive(path, scratch) as archive:
            yield archive


class OciLayout:
    """An image of an OCI layout. tag: which, "" if there is only one."""

    def __init__(self, path: Path, tag: str, store: Store) -> None:
        self.path, self.tag, self.store = path, tag, store
        self.whose = f"{path}:{tag}" if tag else str(path)

    def image_for(self, arch: str) -> Image:
        """Return the image for a machine. Raises SourceError."""
        whose = self.whose
        with opened_files(self.path, self.store.path) as files:
            document = manifest.document(_text(files, "index.json"), whose)
            descriptor = self._tagged(document, arch)
            content = _blob(files, descriptor, whose)
            document = manifest.document(content, whose)
            if manifest.is_index(document, whose):
                descriptor = manifest.choose(document, arch, whose)
                content = _blob(files, descriptor, whose)
                document = manifest.document(content, whose)
            about = manifest.config_of(document, whose)
            config_text = _blob(files, about, whose)
        config = manifest.document(config_text, whose)
        manifest.check_machine(config, arch, whose)
        self.store.keep(config_text)
        layers = manifest.layers(document, config, whose)
        return Image(whose, descriptor.digest, about.digest, config, layers)

    @contextmanager
    def opened(self, layers: Sequence[Layer]) -> Iterator[Read]:  # noqa: ARG002 - all are at hand
        """Open the layout for the time of a with-block."""
        with opened_files(self.path, self.store.path) as files:

            def read(layer: Layer) -> Iterator[bytes]:
                self.store.report.line(f"Unpacking layer: {layer.digest}")
                with files.open(_place(layer.digest)) as file:
                    yield from _checked(layer, file)

            yield read

    def _tagged(self, index: Mapping[str, Any], arch: str) -> Descriptor:
        entries = index.get("manifests")
        matches = [
            entry
            for entry in (entries if isinstance(entries, list) else [])
            if isinstance(entry, dict) and self.tag in ("", str(manifest.annotation(entry, LABEL)))
        ]
        if not matches:
            raise SourceError(
                f"{self.whose}: there is no such image in the layout",
                remedy="Write From: PATH:TAG with a tag that its index.json names.",
            )
        return manifest.choose({"manifests": matches}, arch, self.whose)


class DockerArchive:
    """An image of a `docker save` archive. tag: which, "" if there is only one."""

    def __init__(self, path: Path, tag: str, store: Store) -> None:
        self.path, self.tag, self.store = path, tag, store
        self.whose = f"{path}:{tag}" if tag else str(path)

    def image_for(self, arch: str) -> Image:
        """Return the image. Raises SourceError, also when it is for another machine."""
        with opened_archive(self.path, self.store.path) as files:
            entry = self._entry(files)
            config_text = _text(files, str(entry.get("Config")))
        config = manifest.document(config_text, self.whose)
        manifest.check_machine(config, arch, self.whose)
        digest = self.store.keep(config_text)
        ids = manifest.diff_ids(config, self.whose)
        layers = tuple(Layer("", 0, "", diff_id) for diff_id in ids)
        return Image(self.whose, digest, digest, config, layers)

    @contextmanager
    def opened(self, layers: Sequence[Layer]) -> Iterator[Read]:
        """Open the archive for the time of a with-block."""
        with opened_archive(self.path, self.store.path) as files:
            names = self._entry(files).get("Layers")
            if not isinstance(names, list) or len(names) != len(layers):
                raise SourceError(
                    f"{self.whose}: its manifest and its configuration differ in their layers",
                    remedy="Find out who made it, and have it repaired.",
                )
            # This format names layers by file, in the order of the configuration's diff_ids.
            places = {layer.diff_id: str(name) for layer, name in zip(layers, names, strict=True)}

            def read(layer: Layer) -> Iterator[bytes]:
                self.store.report.line(f"Unpacking layer: {layer.diff_id}")
                with files.open(places[layer.diff_id]) as file:
                    yield from _pieces(file)

            yield read

    def _entry(self, files: Archive) -> Mapping[str, Any]:
        # manifest.json is a list; ``document``, with its bounds and its errors, takes an object.
        wrapped = manifest.document(b'{"list":%s}' % _text(files, "manifest.json"), self.whose)
        entries = wrapped["list"] if isinstance(wrapped["list"], list) else []
        matches = [each for each in entries if isinstance(each, dict) and self._is_named(each)]
        if len(matches) == 1:
            return matches[0]
        tags = sorted(tag for each in entries if isinstance(each, dict) for tag in _tags(each))
        raise SourceError(
            f"{self.path}: holds {len(matches)} images of that name",
            why=f"It has {', '.join(tags) or 'no names'}.",
            remedy="Write From: PATH:NAME:TAG with one of them.",
        )

    def _is_named(self, entry: Mapping[str, Any]) -> bool:
        return not self.tag or any(
            tag == self.tag or tag.endswith(f"/{self.tag}") for tag in _tags(entry)
        )


def _tags(entry: Mapping[str, Any]) -> list[str]:
    tags = entry.get("RepoTags")
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def split_path(text: str) -> tuple[Path, str]:
    """Split ``PATH:TAG``; a path that exists as it stands has no tag. Raises RecipeKeyError."""
    text = text.strip()
    path, tag = text, ""
    # From the end: a path may have colons, a tag as "NAME:TAG" of `docker save` too.
    while not Path(path).exists():
        path, colon, end = path.rpartition(":")
        tag = f"{end}:{tag}" if tag else end
        if not colon:
            raise RecipeKeyError("From", f"{text!r} does not exist", remedy="Correct the path.")
    return Path(path).absolute(), tag


def _checked(layer: Layer, file: BinaryIO) -> Iterator[bytes]:
    total, size = hashlib.sha256(), 0
    for piece in _pieces(file):
        total.update(piece)
        size += len(piece)
        yield piece
    if size != layer.size:
        raise SourceError(f"it has {size} bytes, not the {layer.size} that the manifest tells")
    check_digest(total.hexdigest(), layer.digest, "it")


def _blob(files: Files, descriptor: Descriptor, whose: str) -> bytes:
    content = _text(files, _place(descriptor.digest))
    digest = descriptor.digest
    check_digest(hashlib.sha256(content).hexdigest(), digest, f"{whose}: {digest}")
    return content


def _text(files: Files, name: str) -> bytes:
    with files.open(name) as file:
        content = file.read(manifest.LARGEST_CONFIG + 1)
    if len(content) > manifest.LARGEST_CONFIG:
        raise SourceError(f"{name}: is too large for what it should be")
    return content


def _place(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE):
        yield piece


def _readable(path: Path) -> Path:
    if not path.is_file():
        raise SourceError(f"{path}: is no file", remedy="Correct the recipe's From: line.")
    return path


def _missing(path: Path, name: str, why: str) -> SourceError:
    return SourceError(
        f"{path}: has no {name}", why=why, remedy="Check that it is an image of the kind you named."
    )
