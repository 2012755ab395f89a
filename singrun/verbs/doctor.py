"""singrun doctor: what this host can do for an ordinary user, and what would help.

It tries what a launch does, in a child process, instead of guessing from version numbers.
"""

import json as json_module
import os
import sys

from singrun import config, subordinate, syscalls
from singrun.errors import RunError
from singrun.identity import map_ids
from singrun.images import fuse, unpacked
from singrun.mounts import mountinfo
from singrun.verbs import kernel, trial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

UTF8 = ("utf-8", "surrogateescape")
_SYSCTLS = {
    "user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=65536"),
    "kernel/unprivileged_userns_clone": ("0", "sysctl kernel.unprivileged_userns_clone=1"),
    "kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "an AppArmor profile for singrun with the rule userns, or"
        " sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
}
# Types of file systems that other hosts share: a cache there is slow, and locks may be missing.
_NETWORK = ("nfs", "nfs4", "lustre", "gpfs", "cifs", "smb3", "ceph", "beegfs", "fuse.sshfs", "afs")


class Finding:
    """One line of the report: ``good``, what was found, and the remedy where it is not."""

    def __init__(self, topic: str, state: str, remedy: str = "", *, needed: bool = False) -> None:
        self.topic, self.state, self.remedy, self.needed = topic, state, remedy, needed
        self.good = not remedy

    def line(self) -> str:
        """Return the finding as text for people."""
        mark = "ok" if self.good else "MISSING" if self.needed else "no"
        remedy = f"\n          -> {self.remedy}" if self.remedy else ""
        return f"{mark:8}  {self.topic}: {self.state}{remedy}"


def report(*, json: bool) -> str:
    """Return the findings, as text or as a JSON object with a list of them."""
    config.read()  # tells what is wrong in it, once: the trials are children
    findings = [
        Finding("Python", f"{sys.version.split()[0]}, {sys.executable} (3.9 to 3.14 are tested)"),
        *_kernel(),
        _user_namespaces(),
        *_sysctls(),
        _overlay(),
        _fuse_device(),
        *(_program(*each) for each in _PROGRAMS),
        _loop(),
        _subordinate_ids(),
        _cgroups(),
        _cache(),
        *_player(),
        _site(),
        *_log(),
    ]
    if json:
        rows = [{**vars(each)} for each in findings]
        facts = {"version": 1, "command": "doctor", "findings": rows}
        return json_module.dumps(facts, indent=2) + "\n"
    ways = ", ".join(_ways(findings)) or "none"
    return "\n".join(
        [*(each.line() for each in findings), "", f"Images are mounted by: {ways}", ""]
    )


_PROGRAMS = (  # name, use, package
    ("fuse2fs", "mounts ext3 images for ordinary users", "fuse2fs"),
    ("squashfuse", "mounts squashfs images for ordinary users", "squashfuse"),
    ("fuse-overlayfs", "writes to overlays that are images", "fuse-overlayfs"),
    ("debugfs", "unpacks ext3 images", "e2fsprogs"),
    ("unsquashfs", "unpacks squashfs images", "squashfs-tools"),
)


def _ways(findings: list[Finding]) -> list[str]:
    """Return the strategies that the caller has for ext3 images here."""
    good = {each.topic for each in findings if each.good}
    ways = ["loop"] if not os.geteuid() and "loop devices" in good else []
    if "user namespaces" not in good:
        return ways
    ways += ["fuse2fs"] if {"/dev/fuse", "fuse2fs"} <= good else []
    return ways + (["unpack"] if {"debugfs", "cache directory"} <= good else [])


def _failure(action: "Callable[[], None]") -> str:
    """Do ``action`` in a child process; "" if it went well, else what the kernel said."""
    # No process gets back out of a user namespace: setns(2) asks for capabilities in the
    # one outside.
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            action()
            status = 0
        except OSError as error:
            os.write(writing, (error.strerror or "failed").encode())
        except RunError as error:
            os.write(writing, f"{error.what}. {error.why}".strip().encode(*UTF8))
        except Exception as error:  # no reason to say that it works
            os.write(writing, repr(error).encode(*UTF8))
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as pipe:
        failure = pipe.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return failure or (f"ended with status {status}" if status else "")


def _enter_namespaces() -> None:
    ids = os.geteuid(), os.getegid()
    proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    map_ids(proc, inside=(0, 0), outside=ids)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)


def _user_namespaces() -> Finding:
    topic, failure = "user namespaces", _failure(_enter_namespaces)
    if not failure:
        return Finding(topic, "can be created")
    remedy = "Ask the administrator to allow them; the lines on sysctl below tell how."
    return Finding(topic, failure, remedy, needed=True)


def _sysctls() -> list[Finding]:
    findings = []
    for name, (bad, remedy) in _SYSCTLS.items():
        value = _read(f"/proc/sys/{name}")
        if value:
            help_text = f"Ask the administrator for: {remedy}" if value == bad else ""
            findings.append(Finding(f"sysctl {name.replace('/', '.')}", value, help_text))
    return findings


def _lay_over() -> None:
    _enter_namespaces()
    tmpfs = f"/proc/{os.getpid()}/task"
    syscalls.mount("tmpfs", tmpfs, "tmpfs")
    for name in ("lower", "upper", "work", "root"):
        os.mkdir(f"{tmpfs}/{name}")
    options = f"lowerdir={tmpfs}/lower,upperdir={tmpfs}/upper,workdir={tmpfs}/work,userxattr"
    syscalls.mount("overlay", f"{tmpfs}/root", "overlay", 0, options)


def _overlay() -> Finding:
    failure = _failure(_lay_over)
    remedy = f"Use Linux {kernel.OVERLAY} or later with the module overlay (modprobe overlay)."
    remedy = remedy if failure else ""
    return Finding("overlay", failure or "for --overlay and --writable-tmpfs", remedy)


def _fuse_device() -> Finding:
    try:
        fuse.check_device()
    except RunError as error:
        return Finding("/dev/fuse", error.why, error.remedy)
    return Finding("/dev/fuse", "can be opened")


def _program(name: str, use: str, package: str) -> Finding:
    path = fuse.host_program(name)
    if not path:
        return Finding(name, f"not installed ({use})", f"Install the package {package}.")
    state = f"{path} ({use})"
    if not _may_try(name):
        return Finding(name, f"{state}, not tried")
    if failure := _failure(lambda: trial.attempt(name, config.read())):
        remedy = f"Install another version of the package {package}, or report this."
        return Finding(name, f"{state}, and: {failure}", remedy)
    return Finding(name, f"{state}, works")


def _may_try(program: str) -> bool:
    """Whether it has what it needs; what is lacking has a line of its own."""
    if program in trial.FUSE_PROGRAMS and _fuse_device().remedy:
        return False
    return not (os.geteuid() and _user_namespaces().remedy)


def _loop() -> Finding:
    if os.geteuid():
        return Finding("loop devices", "for root only")
    failure = _failure(lambda: trial.attempt("loop", config.read()))
    return Finding("loop devices", failure or "mount images", "modprobe loop" if failure else "")


def _kernel() -> list[Finding]:
    """Return a line for the kernel, and one for each call that it lacks."""
    lacking = [
        Finding(call, failure, f"Use Linux {since} or later.", needed=True)
        for call, since, action in kernel.CALLS
        if (failure := _failure(action))
    ]
    return [Finding("kernel", f"Linux {os.uname().release}"), *lacking]


def _subordinate_ids() -> Finding:
    topic, purpose = "subordinate ids", "(for building, and for --fakeroot)"
    if None not in map(subordinate.first, subordinate.FILES) and fuse.host_program("newuidmap"):
        return Finding(topic, f"{subordinate.COUNT} {purpose}")
    remedy = "Ask the administrator for: usermod --add-subuids 100000-165535 --add-subgids … USER"
    return Finding(topic, f"none, or no newuidmap {purpose}", remedy)


def _cgroups() -> Finding:
    version = 2 if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else 1
    return Finding("cgroups", f"version {version}; singrun stays in the caller's")


def _cache() -> Finding:
    path = config.read().cache
    there = path
    while not os.path.exists(there):
        there = os.path.dirname(there) or "/"
    kind = mountinfo.kind_of(there)
    state = f"{path} on {kind}"
    local = "Name a directory on a local disk: SINGRUN_CACHEDIR=/local/directory"
    try:
        if there == path:
            os.close(unpacked.open_private(path))
    except RunError as error:
        return Finding("cache directory", f"{state}: {error.why}", error.remedy)
    if kind in _NETWORK:
        return Finding("cache directory", f"{state}, which is a network file system", local)
    if not os.access(there, os.W_OK):
        return Finding("cache directory", f"{state}, which cannot be written", local)
    try:
        unpacked.check_executable(there, local)
    except RunError as error:
        return Finding("cache directory", f"{state}: {error.why}", error.remedy)
    return Finding("cache directory", state)


def _player() -> list[Finding]:
    """Say whether launches of the plain kind need no Python: recordings/player.c."""
    place = os.path.dirname(sys.argv[0]) + "/recordings"
    if not os.path.isdir(place):
        return []  # the single file has none
    if not os.access(f"{place}/player", os.X_OK):
        remedy = f"Compile it: cc -O2 -o {place}/player {place}/*.c"
        return [Finding("player", "not compiled (starts images without Python)", remedy)]
    tried = f"/var/tmp/singrun-launches-{os.geteuid()}/player"  # noqa: S108  only reported
    if os.path.islink(tried) and os.readlink(tried) == ".":
        return [Finding("player", "cannot be executed on this host; tried once a day")]
    return [Finding("player", "starts images without Python")]


def _site() -> Finding:
    site = config.read()
    idle = f"; not obeyed: {', '.join(dict.fromkeys(site.idle))}" if site.idle else ""
    if os.geteuid() and not site.on["allow user ns"]:
        place = site.places["allow user ns"]
        what = f"{place}: allow user ns = no, which refuses every launch of yours"
        return Finding("site's file", what, "Ask the administrator.", needed=True)
    return Finding("site's file", (site.path or f"none (it would be {config.PATH})") + idle)


def _log() -> list[Finding]:
    """Return whether there is a log for launches; nothing where the site asks for none."""
    place = config.log_of(config.read())
    if not place:
        return []
    if os.path.exists(place):
        return [Finding("log of launches", place)]
    what = f"there is no {place}; launches go on, and leave no line"
    return [Finding("log of launches", what, "Start the host's syslog, or name its socket.")]


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""
