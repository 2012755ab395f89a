"""How a build gets to be root in the image: what this host allows, and why.

Four ways, the best first. Which one a build takes makes no difference to its image.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from singbuild.errors import HostError
from singbuild.privilege import capabilities, probes, subordinate
from singbuild.privilege.subordinate import Missing, Ranges
from singrun import syscalls

NAMESPACES = (
    "sysctl user.max_user_namespaces=10000; on Debian 10 also kernel.unprivileged_userns_clone=1; "
    "on Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile"
)

RESTRICTED = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")


class Mode(StrEnum):
    """root: real root; subuid: a user with subordinate ids; one-id: a user without.

    chroot: root without mounts and namespaces, as in most containers.
    """

    ROOT = "root"
    SUBUID = "subuid"
    ONE_ID = "one-id"
    CHROOT = "chroot"


@dataclass(frozen=True)
class Choice:
    """The mode of a build. reason: why this one; ids: the subordinate ones, if it has any."""

    mode: Mode
    reason: str
    ids: Ranges | None = None


def choose(forced: Mode | None = None) -> Choice:
    """Return the best mode that works here, or the one that is forced.

    Raises HostError, naming what is missing and how to get it.
    """
    if forced:
        if lacks := PROBES[forced]():
            raise _refused(f"the privilege mode {forced} does not work here", lacks)
        return _choice(forced, "it was asked for")
    if os.geteuid() == 0:
        if not (lacks := PROBES[Mode.ROOT]()):
            return _choice(Mode.ROOT, "you are root and may mount")
        if alone := PROBES[Mode.CHROOT]():
            raise _refused(alone[0].what, alone)
        return _choice(Mode.CHROOT, lacks[0].what)
    if not (lacks := PROBES[Mode.SUBUID]()):
        return _choice(Mode.SUBUID, "you are not root, and have subordinate ids")
    if alone := PROBES[Mode.ONE_ID]():
        raise _refused(alone[0].what, alone)
    return _choice(Mode.ONE_ID, f"you are not root, and {lacks[0].what}")


def _choice(mode: Mode, reason: str) -> Choice:
    return Choice(mode, reason, subordinate.ranges() if mode is Mode.SUBUID else None)


def _refused(what: str, lacks: list[Missing]) -> HostError:
    why = "\n".join(each.what for each in lacks if each.what != what)
    return HostError(what, why=why, remedy="\n".join(each.remedy for each in lacks))


def _root() -> list[Missing]:
    """What is missing for a build by real root, as in most containers."""
    if os.geteuid():
        return [Missing("you are not root", "Run it with sudo.")]
    reasons = []
    remedy = "Build outside the container, or give it the capability CAP_SYS_ADMIN."
    if not capabilities.has(capabilities.SYS_ADMIN):
        what = "root may not mount anything here: the capability CAP_SYS_ADMIN is missing"
        reasons.append(Missing(what, remedy))
    elif reason := probes.mounts_refused():
        reasons.append(Missing(f"root may not mount anything here: {reason}", remedy))
    if not Path("/dev/loop-control").exists():
        what = "this host has no loop devices: /dev/loop-control does not exist"
        reasons.append(
            Missing(what, "modprobe loop, or give the container access to loop devices.")
        )
    return reasons + _power_to_drop() + _kernel()


def _subuid() -> list[Missing]:
    return subordinate.missing() or _namespace(subordinate.ranges())


def _one_id() -> list[Missing]:
    return _namespace(None)


def _chroot() -> list[Missing]:
    if os.geteuid():
        return [Missing("you are not root", "Run it with sudo, or in a container as its root.")]
    reason = _power_to_drop()
    if not capabilities.has(capabilities.SYS_CHROOT):
        what = "root may not change its root directory: the capability CAP_SYS_CHROOT is missing"
        reason.append(Missing(what, "Give the container this capability."))
    return reason


def _power_to_drop() -> list[Missing]:
    """What root lacks to let the image's programs have fewer capabilities than itself."""
    if capabilities.has(capabilities.SETPCAP):
        return []
    what = "root may not take capabilities from programs: the capability CAP_SETPCAP is missing"
    return [Missing(what, "Give the container this capability.")]


def _namespace(ids: Ranges | None) -> list[Missing]:
    try:
        reason = probes.user_namespace_refused(ids)
    except HostError as error:
        return [Missing(error.what, error.why)]
    what = f"this host gives you no user namespace: {reason}"
    remedy = f"Run it with sudo, or ask for: {NAMESPACES}\n{_profile()}"
    return ([Missing(what, remedy.rstrip())] if reason else []) + _kernel()


def _kernel() -> list[Missing]:
    """What the kernel itself lacks for the containers of sections (``container_init.py``)."""
    try:
        # It can only fail: by EBADF where the kernel knows the call.
        syscalls.mount_setattr(-1, "x", 0, attr_set=1)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return [Missing("this kernel has no mount_setattr(2)", "Use Linux 5.12 or later.")]
    return []


def _profile() -> str:
    """Return the AppArmor profile that lets this Python make user namespaces, where one counts."""
    if not RESTRICTED.exists():
        return ""
    return f"""/etc/apparmor.d/singbuild, to be loaded with apparmor_parser -r:
abi <abi/4.0>,
include <tunables/global>
profile singbuild {os.path.realpath(sys.executable)} flags=(unconfined) {{
  userns,
}}"""


PROBES: dict[Mode, Callable[[], list[Missing]]] = {
    Mode.ROOT: _root,
    Mode.SUBUID: _subuid,
    Mode.ONE_ID: _one_id,
    Mode.CHROOT: _chroot,
}
