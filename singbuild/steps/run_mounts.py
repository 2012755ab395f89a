"""``RUN --mount``: files that are in the tree while one program runs, and not in the image.

Mounts are made by the builder, in its own namespace; the container takes them along. Their
places in the tree are reached by descriptor, so no link leads one elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from singbuild import workspace
from singbuild.dockerfile import context
from singbuild.dockerfile.evaluation import Mount, Run
from singbuild.errors import HostError, RecipeError
from singbuild.ext3.reader.image import Image
from singbuild.file_tree import FileTree
from singbuild.formats.directory import Sandbox
from singbuild.plan.job import Job
from singbuild.steps.step import Workplace
from singbuild.tar.extract import Unpacker
from singbuild.tar.write import subtree
from singbuild.tree import chroot, secrets
from singbuild.tree.rootfs import Rootfs
from singrun import syscalls
from singrun.syscalls import MNT_DETACH, MS_BIND, MS_NODEV, MS_NOSUID


def secret_name(mount: Mount) -> str:
    """Return the name of a secret that a mount is of."""
    return mount.fields.get("id") or PurePosixPath(mount.fields.get("target", "secret")).name


@contextlib.contextmanager
def mounted(job: Job, action: Run, workplace: Workplace) -> Iterator[dict[str, str]]:
    """Have an action's mounts for the time of a with-block; give the variables that are secrets."""
    if action.mounts and not chroot.may_mount():
        raise HostError(
            f"{job.plan.recipe.path}:{action.instruction.line}: RUN --mount needs mounts",
            why="Nothing may be mounted here.",
            remedy="Build as root, or where user namespaces are allowed.",
        )
    variables: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for number, mount in enumerate(action.mounts):
            match mount.kind:
                case "secret":
                    for secret in job.secrets:
                        if secret.name == secret_name(mount):
                            if "env" in mount.fields:
                                variables[mount.fields["env"]] = secret.value.decode(
                                    errors="replace"
                                )
                            if "env" not in mount.fields or "target" in mount.fields:
                                stack.enter_context(_secret(workplace.rootfs, mount, secret))
                case "cache":
                    stack.enter_context(_bound(workplace.rootfs, mount, _cache(job, mount)))
                case "tmpfs":
                    stack.enter_context(_tmpfs(workplace.rootfs, mount))
                case _:
                    place = _unpacked(job, action, mount, workplace, number)
                    read_only = (
                        mount.fields.get("rw", mount.fields.get("readwrite", "false")) != "true"
                    )
                    stack.enter_context(_bound(workplace.rootfs, mount, place, read_only=read_only))
        yield variables


def _cache(job: Job, mount: Mount) -> Path:
    """Return the directory that a cache mount of this name has from build to build."""
    name = mount.fields.get("id") or mount.fields["target"]
    key = hashlib.sha256(f"{name}\0{job.plan.source.arch}".encode()).hexdigest()[:32]
    place = workspace.cache_directory() / "mounts" / key
    workspace.make_in_cache(place)
    place.chmod(int(mount.fields.get("mode", "0755"), 8))
    with contextlib.suppress(PermissionError):
        os.chown(place, int(mount.fields.get("uid", "0")), int(mount.fields.get("gid", "0")))
    return place


def _unpacked(job: Job, action: Run, mount: Mount, workplace: Workplace, number: int) -> Path:
    """Unpack what a bind mount shows, into the scratch: what is written there is thrown away."""
    place = workplace.scratch / "binds" / f"{action.name}-{number}"
    place.mkdir(parents=True)
    source_path = mount.fields.get("source", "/")
    with _tree(job, mount, workplace) as tree:
        ignored = context.ignored(job.plan.recipe.path) if "from" not in mount.fields else None
        entry = tree.find(source_path)
        if entry is None:
            raise RecipeError(
                job.plan.recipe.path,
                action.instruction.line,
                0,
                action.instruction.text,
                f"there is no {source_path} to be mounted",
            )
        with Unpacker(place, workplace.rootfs.report, owners={}) as unpacker:
            unpacker.apply(subtree(tree, entry, "it", leave_out=ignored))
    return place / "it"


def _tree(job: Job, mount: Mount, workplace: Workplace) -> FileTree:
    if stage := mount.fields.get("from"):
        return Image(workplace.stages[stage].image)
    return Sandbox(context.directory(job.plan.recipe.path))


@contextlib.contextmanager
def _place(rootfs: Rootfs, path: str, *, file: bool) -> Iterator[str]:
    """Give the host's path of a place in the tree; what was missing is removed again."""
    missing = []
    for each in (*reversed(PurePosixPath(path).parents), PurePosixPath(path)):
        if rootfs.status(each) is None:
            missing.append(each)
    if missing:
        rootfs.write(path, "") if file else rootfs.mkdir(path)
    opened = rootfs.open(path) if file else None
    try:
        if opened:
            yield f"/proc/self/fd/{opened.fileno()}"
        else:
            with rootfs.directory(path) as fd:
                yield f"/proc/self/fd/{fd}"
    finally:
        if opened:
            opened.close()
        for each in reversed(missing):
            with contextlib.suppress(OSError):
                if file and each == missing[-1]:
                    rootfs.remove(each)
                else:
                    rootfs.rmdir(each)


@contextlib.contextmanager
def _bound(
    rootfs: Rootfs, mount: Mount, source: Path, *, read_only: bool = False
) -> Iterator[None]:
    is_file = stat.S_ISREG(source.stat().st_mode)
    with _place(rootfs, mount.fields["target"], file=is_file) as place:
        syscalls.mount(str(source), place, "", MS_BIND, "")
        with _opened(rootfs, mount.fields["target"]) as there:
            if read_only:
                flags, read = syscalls.AT_RECURSIVE, syscalls.MOUNT_ATTR_RDONLY
                syscalls.mount_setattr(syscalls.AT_FDCWD, there, flags, attr_set=read)
            try:
                yield
            finally:
                syscalls.umount2(there, MNT_DETACH)


@contextlib.contextmanager
def _tmpfs(rootfs: Rootfs, mount: Mount) -> Iterator[None]:
    with _place(rootfs, mount.fields["target"], file=False) as place:
        syscalls.mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
        with _opened(rootfs, mount.fields["target"]) as there:
            try:
                yield
            finally:
                syscalls.umount2(there, MNT_DETACH)


@contextlib.contextmanager
def _secret(rootfs: Rootfs, mount: Mount, secret: secrets.Secret) -> Iterator[None]:
    """Have a secret's file at its place: on a file system in memory, bound there."""
    target = mount.fields.get("target") or f"{secrets.DIRECTORY}/{secret.name}"
    with rootfs.temporary_directory() as directory:
        syscalls.mount("tmpfs", str(directory), "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700")
        try:
            file = directory / "secret"
            file.write_bytes(secret.value)
            file.chmod(int(mount.fields.get("mode", "0400"), 8))
            with contextlib.suppress(OSError):  # there may be one id alone
                os.chown(file, int(mount.fields.get("uid", "0")), int(mount.fields.get("gid", "0")))
            with _bound(rootfs, Mount("bind", {"target": target}), file):
                yield
        finally:
            syscalls.umount2(str(directory), MNT_DETACH)


@contextlib.contextmanager
def _opened(rootfs: Rootfs, path: str) -> Iterator[str]:
    """Give a path for what is mounted at a place now."""
    fd = os.open(rootfs.path(path), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
