"""COPY and ADD: files of the context, of another stage, of the network, or of a here-document.

Whatever the source, an archive of it is made on the way and unpacked into the tree: nothing in the
tree leads it elsewhere. What comes from the context belongs to root; what comes from a stage
keeps its owner; ``--chown`` and ``--chmod`` win over both.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from singbuild import compression
from singbuild.contract import Source
from singbuild.dockerfile import context, files, reader
from singbuild.dockerfile.actions import URL, Copy
from singbuild.ext3.reader.image import Image
from singbuild.file_tree import DIRECTORY, REGULAR, Entry, FileTree
from singbuild.formats.recorded import Recorded
from singbuild.recipe.recipe import Recipe
from singbuild.steps import accounts
from singbuild.steps.step import Workplace
from singbuild.tar.write import hashed, one_file, subtree
from singbuild.tree.rootfs import Rootfs

_PIECE = 1 << 20  # bytes
TAR_MAGIC = slice(257, 262)


def copy(
    recipe: Recipe, action: Copy, workplace: Workplace, epoch: int, source: Source
) -> dict[str, str]:
    """Do what an action says; return the digests of what it read, by name in the lock.

    Raises RecipeError, accounts.UnknownAccountError.
    """
    rootfs = workplace.rootfs
    owner = accounts.owner(rootfs, action.owner) if action.owner else None
    _check_mode(recipe, action)
    of_context = files.Overrides(owner or (0, 0), action.mode, epoch)
    place = posixpath.join(action.directory, action.destination)
    for document in action.documents:
        text = document.text.encode(errors="surrogateescape")
        _write(rootfs, _into(rootfs, place, document.name), [text], of_context)
    keys, digests = dict(files.names(action)), dict[str, str]()
    for name in action.sources:
        if name.startswith(URL):
            content = files.fetched(action, name, source).path
            last = PurePosixPath(urlsplit(name).path).name or "index"
            # As Docker has it: Dockerfile reference, "ADD", remote files.
            overrides = files.Overrides(owner or (0, 0), action.mode or "0600", epoch)
            with content.open("rb") as file:
                total = hashlib.sha256()
                pieces = hashed(iter(lambda: file.read(_PIECE), b""), total)
                size = os.fstat(file.fileno()).st_size
                _write(rootfs, _into(rootfs, place, last), pieces, overrides, size)
            digests[keys[name]] = f"sha256:{total.hexdigest()}"
            continue
        with _tree(recipe, action, workplace) as tree:
            overrides = files.Overrides(owner, action.mode, None) if action.stage else of_context
            entries = files.entries(recipe, action, tree, name)
            if not entries:
                rootfs.report.line(f"nothing is called {name}")
            many = len(entries) > 1 or action.keeps_parents
            for entry in entries:
                where = place
                if action.keeps_parents:
                    where = f"{place}/{posixpath.dirname(files.below_parents(name, entry))}"
                _copy(recipe, action, tree, entry, rootfs, where, overrides, many=many)
            if isinstance(tree, Recorded):
                digests[keys[name]] = tree.digest
    return digests


def _copy(
    recipe: Recipe,
    action: Copy,
    tree: FileTree,
    entry: Entry,
    rootfs: Rootfs,
    place: str,
    overrides: files.Overrides,
    *,
    many: bool,
) -> None:
    left_out = files.left_out(recipe, action)
    name = entry.path.rpartition(b"/")[2].decode(errors="surrogateescape")
    if isinstance(tree, Recorded):
        tree.record_name(entry)
    real = tree.find(entry.path) or entry  # a link that is named is followed
    if real.inode.kind == DIRECTORY:
        if action.keeps_parents:
            place = f"{place}/{name}"
        _make(rootfs, place, overrides)
        rootfs.unpack(
            [subtree(tree, real, place, changed=overrides, leave_out=left_out, top=False)]
        )
    elif (
        action.instruction.keyword == "ADD"
        and isinstance(tree, Recorded)
        and _is_archive(tree, real)
    ):
        stream = tree.stream(real)
        _make(rootfs, place, overrides)
        rootfs.unpack_below(place, compression.inflated(stream, ""))
        tree.record_stream(real, stream)
    else:
        target = f"{place}/{name}" if many else _into(rootfs, place, name)
        _make(rootfs, posixpath.dirname(target), overrides)
        rootfs.unpack([subtree(tree, real, target, changed=overrides)])


def _write(
    rootfs: Rootfs, target: str, pieces: Iterable[bytes], overrides: files.Overrides, size: int = -1
) -> None:
    """Write one file. size: bytes of all pieces; -1: count them, in memory."""
    content = [*pieces] if size < 0 else pieces
    size = sum(map(len, content)) if isinstance(content, list) else size
    _make(rootfs, posixpath.dirname(target), overrides)
    rootfs.unpack([one_file(target, content, size, overrides)])


def _make(rootfs: Rootfs, place: str, overrides: files.Overrides) -> None:
    """Make a directory, and those above it, where they are missing: they get the new owner too."""
    path = PurePosixPath(posixpath.normpath("/" + place.strip("/")))
    missing = [each for each in (path, *path.parents) if not rootfs.exists(each)]
    for each in reversed(missing):
        rootfs.mkdir(each)
        if overrides.owner and overrides.owner != (0, 0):
            rootfs.chown(each, *overrides.owner)


def _into(rootfs: Rootfs, place: str, name: str) -> str:
    """Return where a file goes: into a directory that is there, or that a slash says it is."""
    status = rootfs.status(place)
    is_directory = status is not None and stat.S_ISDIR(status.st_mode)
    into = is_directory or place.endswith(("/", "/.")) or place in (".", "..")
    return posixpath.normpath("/" + (f"{place}/{name}" if into else place).strip("/"))


def _tree(recipe: Recipe, action: Copy, workplace: Workplace) -> FileTree:
    if action.stage:
        return Image(workplace.stages[action.stage].image)
    return Recorded(context.directory(recipe.path))


def _is_archive(tree: FileTree, entry: Entry) -> bool:
    """Whether ADD unpacks a file: a tar archive, packed or not."""
    if entry.inode.kind != REGULAR:
        return False
    try:
        head = next(compression.inflated(tree.stream(entry), ""), b"")
    except Exception:  # damaged, or of another kind: then it is copied
        return False
    return bytes(head[TAR_MAGIC]) == b"ustar"


def _check_mode(recipe: Recipe, action: Copy) -> None:
    if action.mode and not files.is_mode(action.mode):
        raise reader.error(
            recipe.source,
            action.instruction,
            f"--chmod={action.mode} is no mode",
            remedy="Write --chmod=755, or --chmod=u=rwX,go=rX.",
        )
