"""Started instances: found by name or by image, entered, listed, stopped. holding.py is one."""

import os
import pwd

from singrun import errors
from singrun.errors import RunError, UsageError, printable, say
from singrun.images import image
from singrun.namespaces import meeting_places, rendezvous
from singrun.namespaces.entering import ProgramNamespaces
from singrun.namespaces.waiting import Waiter
from singrun.options import FLAGS
from singrun.origin import Origin
from singrun.request import MountOptions, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

SCHEME = "instance://"
# What a launch into an instance may say for itself; all else belongs to start.
_FREE = [
    *(
        "pwd",
        "shell",
        "app",
        "why",
        "cleanenv",
        "env",
        "env-file",
        "eval",
        "no-umask",
        "debug",
        "plan",
        "fetch",
        "no-https",
    ),
    *("join", "add-caps", "drop-caps", "keep-privs", "no-privs"),
    *(name for name, attributes in FLAGS.items() if not attributes),
]
_PATIENCE = 10.0  # seconds for a stopped instance to end by itself


class Instance:
    """One of the caller's. home: what --home said at the start. since: seconds of the epoch.

    image_state: rendezvous.image_state() of its image at the start. is_contained: --contain. logs:
    where its output goes, without ".out" and ".err".
    """

    def __init__(self, connection: int, pid: int) -> None:
        fields = rendezvous.read_all(connection).decode("utf-8", "surrogateescape").split("\0")
        self.pid = pid
        self.name, self.image, self.home, since, self.image_state, contained, self.logs = fields
        self.since, self.is_contained = int(since), bool(contained)

    def as_json(self) -> "dict[str, str | int]":
        """Return the fields that `instances --json` prints."""
        names = ("pid", "name", "image", "since")
        return {name: vars(self)[name] for name in names}


def find(word: str) -> "Instance | None":
    """Return what instance://NAME or the path of an image names."""
    states: list[str] = []
    if word.startswith(SCHEME):
        word_at_rendezvous = word.removeprefix(SCHEME)
        if not _is_name(word_at_rendezvous):
            return None
        word_at_rendezvous = f"instance-{word_at_rendezvous}"
    else:
        try:
            status = os.stat(word)
        except OSError:
            return None
        word_at_rendezvous = meeting_places.of_image(status)
        states = [rendezvous.image_state(status, writable=writable) for writable in (False, True)]
    connection, pid = rendezvous.reach(word_at_rendezvous)
    if connection < 0:
        return None
    try:
        reached = Instance(connection, pid)
    except (ValueError, OSError):  # it ended before it answered, or does not answer
        return None
    return reached if not states or reached.image_state in states else None


def instance_for(word: str) -> Instance:
    """Return the instance of that name or of that image, else RunError."""
    names = [word] if word.startswith(SCHEME) or "/" in word else [SCHEME + word, word]
    for each in names:
        if match := find(each):
            return match
    raise RunError(f"There is no instance {word}", remedy="See: singrun instances")


def join(request: Request) -> None:
    """Become the program in the instance that the request names; return if there is none.

    A request by image with options that shape namespaces or mounts is a launch of its own; one by
    name enters, with a warning that they have no effect.
    """
    if request.image.path.startswith(SCHEME):
        instance = instance_for(request.image.path)
        if request.isolation.as_caller:
            what = f"Cannot combine --as-caller with {request.image.path}"
            raise RunError(what, remedy="Leave one of them out.")
        if words := _shaping(request):
            say(f"Without effect on {request.image.path}, as it is started: {' '.join(words)}")
    else:
        match = find(request.image.path)
        if not match or request.plan or _shaping(request):
            return
        instance = match
    _enter(request, instance)


def _shaping(request: Request) -> list[str]:
    return [f"--{name}" for name in dict.fromkeys(request.option_names) if name not in _FREE]


def _check_policy(instance: Instance) -> None:
    """Check the site's policy again: it may have changed since the instance was started."""
    if not os.path.lexists(image.POLICY):
        return
    try:
        fd = os.open(instance.image, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        what = f"The instance {instance.name} may not be entered"
        why = f"The site has a policy, and {instance.image} cannot be read: {error.strerror}."
        raise RunError(what, why=why, remedy="Start it again.") from None
    states = [rendezvous.image_state(os.fstat(fd), writable=writable) for writable in (False, True)]
    if instance.image_state not in states:
        what = f"The instance {instance.name} may not be entered"
        why = f"The site has a policy, and {instance.image} is another file now."
        raise RunError(what, why=why, remedy="Start it again.")
    image.check_policy(fd, instance.image)
    os.close(fd)


def _enter(request: Request, instance: Instance) -> "NoReturn":
    _check_policy(instance)
    request.mounts, request.isolation.pid = MountOptions(), False
    if instance.home:
        request.mounts.home = ("", instance.home)
    request.mounts.contain = instance.is_contained
    origin, waiter = Origin(request), Waiter(instance.image)
    what = f"Cannot enter the instance {instance.name}"
    try:
        others = ProgramNamespaces(instance.pid)
        marker = rendezvous.marker(instance.name, instance.image_state)
        is_it = others.has_marker(marker) and others.are_ours()
    except OSError as error:
        raise RunError(what, why=f"{error.strerror}.") from None
    if not is_it:
        raise RunError(what, why="Its process has not what singrun start makes.")
    others.enter_owner("pid", "ipc", "uts", "net")
    waiter.fork(own_pids=False)
    others.enter_mounts()
    origin.execute(instance.image, waiter)


def running() -> list[Instance]:
    """Return the caller's instances, by name."""
    all_of_user = (find(SCHEME + name) for name in rendezvous.names("instance-"))
    return [each for each in all_of_user if each]


def listing(words: list[str]) -> str:
    """Return what ``singrun instances [--json]`` prints."""
    if words not in ([], ["--json"]):
        raise UsageError(f"Cannot understand {words[0]}", remedy="Say singrun instances [--json].")
    import json
    import time

    all_of_user = running()
    if words:
        facts = {"version": 1, "command": "instances"}
        facts["instances"] = [each.as_json() for each in all_of_user]
        return json.dumps(facts, indent=2) + "\n"
    if not all_of_user:
        return ""
    lines = [f"{'NAME':20} {'PROCESS':>8}  {'SINCE':19}  IMAGE"]
    for each in all_of_user:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.since))
        lines.append(f"{each.name:20} {each.pid:8}  {since}  {printable(each.image)}")
    return "\n".join(lines) + "\n"


def stop(words: list[str]) -> str:
    """End the instances that the words name, and all that runs in them."""
    if not words:
        raise UsageError("No instance was given to stop", remedy="See: singrun instances")
    end(running() if words == ["--all"] else [instance_for(word) for word in words], _PATIENCE)
    return ""


def end(living: "list[Instance]", patience: float) -> None:
    """End instances and all that runs in them. patience: seconds before they are killed."""
    import select
    import signal

    for instance in living:
        # A pidfd, since a number may be another process's by the time of the second signal:
        # pidfd_open(2).
        try:
            holder = os.pidfd_open(instance.pid)
        except ProcessLookupError:
            continue  # it has ended meanwhile
        if not _is_living(instance):
            os.close(holder)
            continue
        its_end = select.poll()  # select(2) takes no descriptor from 1,024 on
        its_end.register(holder, select.POLLIN)
        for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, _PATIENCE)):
            if number == signal.SIGTERM and not seconds:
                continue
            try:
                signal.pidfd_send_signal(holder, number)
            except ProcessLookupError:
                break
            if its_end.poll(seconds * 1000):
                break
        os.close(holder)
    for prefix in ("instance-", "image-"):
        rendezvous.names(prefix)  # sweeps


def _is_living(instance: Instance) -> bool:
    """Whether its process answers to its name, and no other has its number now."""
    again = find(SCHEME + instance.name)
    return again is not None and again.pid == instance.pid


def check_name(request: Request) -> None:
    """Give the instance to be started its name: the word after the image, else the image's.

    Further words are its script's.
    """
    program = request.program
    name, *words = program.arguments or [os.path.basename(os.path.abspath(request.image.path))]
    if not _is_name(name):
        remedy = "Say: singrun start IMAGE NAME, with letters, digits, . _ and - in NAME."
        raise RunError(f"Cannot name an instance {name}", remedy=remedy)
    if request.isolation.changes_rights or request.isolation.limits:
        what = "Cannot start an instance with limits, --add-caps, --drop-caps or --no-privs"
        raise RunError(what, remedy="Say them of each command that enters it.")
    program.instance, program.arguments, program.logs = name, words, _logs(name)
    request.isolation.pid = True


def _logs(name: str) -> str:
    """Return where the output of an instance goes, as Singularity 3 and Apptainer have it."""
    kind = "apptainer" if errors.spelling() == "apptainer" else "singularity"
    return f"{_log_directory(kind)}/{name}"


def log_directories() -> "list[str]":
    """Return the directories of this host that have output of the caller's instances."""
    return [d for d in map(_log_directory, ("singularity", "apptainer")) if os.path.isdir(d)]


def _log_directory(kind: str) -> str:
    try:
        user = pwd.getpwuid(os.geteuid())
        owner, home = user.pw_name, user.pw_dir
    except KeyError:
        owner, home = str(os.geteuid()), os.environ.get("HOME", "/")
    return f"{home}/.{kind}/instances/logs/{os.uname().nodename}/{owner}"


def _is_name(name: str) -> bool:
    plain = name.replace("-", "").replace("_", "").replace(".", "")
    return len(name) <= 64 and plain.isascii() and plain.isalnum()
