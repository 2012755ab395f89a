"""``RUN --mount``: files that are in the tree while one program runs, and not in the image."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from singbuild import workspace
from singbuild.dockerfile import context, files
from singbuild.dockerfile.actions import Mount, Run
from singbuild.errors import HostError, RecipeError
from singbuild.ext3.reader.image import Image
from singbuild.file_tree import FileTree
from singbuild.formats.recorded import Recorded
from singbuild.plan.job import Job
from singbuild.steps.step import Workplace
from singbuild.tar.extract import Unpacker
from singbuild.tar.write import subtree
from singbuild.tree import binds, chroot, secrets
from singbuild.tree.rootfs import Rootfs
from singrun import syscalls
from singrun.syscalls import MNT_DETACH, MS_NODEV, MS_NOSUID


def secret_name(mount: Mount) -> str:
    """Return the name of the secret that a mount shows."""
    return mount.fields.get("id") or PurePosixPath(mount.fields.get("target", "secret")).name


@contextlib.contextmanager
def mounted(
    job: Job, action: Run, workplace: Workplace
) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Mount what an action names for the time of a with-block.

    Yields the variables that are secrets, and the digests of what was read of the context, by name
    in the lock.
    """
    keys, digests = dict(files.names(action)), dict[str, str]()
    if (action.mounts or action.is_offline) and not chroot.may_mount():
        flag = "--mount" if action.mounts else "--network=none"
        raise HostError(
            f"{job.plan.recipe.path}:{action.instruction.line}: RUN {flag} needs mounts",
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
                    place, target = _cache(job, mount), mount.fields["target"]
                    stack.enter_context(binds.bound(workplace.rootfs, target, place))
                case "tmpfs":
                    stack.enter_context(binds.memory(workplace.rootfs, mount.fields["target"]))
                case _:
                    place, digest = _unpacked(job, action, mount, workplace, number)
                    if key := keys.get(mount.fields.get("source", "/")) if digest else None:
                        digests[key] = digest
                    read_only = (
                        mount.fields.get("rw", mount.fields.get("readwrite", "false")) != "true"
                    )
                    target = mount.fields["target"]
                    stack.enter_context(
                        binds.bound(workplace.rootfs, target, place, read_only=read_only)
                    )
        yield variables, digests


def _cache(job: Job, mount: Mount) -> Path:
    """Return the directory that a cache mount of this name has from build to build."""
    name = mount.fields.get("id") or mount.fields["target"]
    text = f"{name}\0{job.plan.source.arch}".encode(errors="surrogateescape")
    key = hashlib.sha256(text).hexdigest()[:32]
    place = workspace.cache_directory() / "mounts" / key
    workspace.make_in_cache(place)
    place.chmod(int(mount.fields.get("mode", "0755"), 8))
    try:
        os.chown(place, int(mount.fields.get("uid", "0")), int(mount.fields.get("gid", "0")))
    except OSError as error:
        # EINVAL: an id that the user namespace does not map. The section's root may write anyway.
        if error.errno not in (errno.EPERM, errno.EINVAL):
            raise
    return place


def _unpacked(
    job: Job, action: Run, mount: Mount, workplace: Workplace, number: int
) -> tuple[Path, str]:
    """Unpack what a bind mount shows, into the scratch: what is written there is thrown away.

    Returns where, and the digest of what was read of the context, "" of a stage.
    """
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
        return place / "it", tree.digest if isinstance(tree, Recorded) else ""


def _tree(job: Job, mount: Mount, workplace: Workplace) -> FileTree:
    if stage := mount.fields.get("from"):
        return Image(workplace.stages[stage].image)
    return Recorded(context.directory(job.plan.recipe.path))


@contextlib.contextmanager
def _secret(rootfs: Rootfs, mount: Mount, secret: secrets.Secret) -> Iterator[None]:
    """Bind-mount a secret's file, which lies on a tmpfs, for the time of a with-block."""
    target = mount.fields.get("target") or f"{secrets.DIRECTORY}/{secret.name}"
    with rootfs.temporary_directory() as directory:
        syscalls.mount("tmpfs", str(directory), "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700")
        try:
            file = directory / "secret"
            file.write_bytes(secret.value)
            file.chmod(int(mount.fields.get("mode", "0400"), 8))
            with contextlib.suppress(OSError):  # there may be one id alone
                os.chown(file, int(mount.fields.get("uid", "0")), int(mount.fields.get("gid", "0")))
            with binds.bound(rootfs, target, file):
                yield
        finally:
            syscalls.umount2(str(directory), MNT_DETACH)
