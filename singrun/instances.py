"""Started instances: found by name or by image, entered, listed, stopped. holding.py is one."""

import os

from singrun.errors import RunError, UsageError
from singrun.namespaces import rendezvous
from singrun.namespaces.leaving import Others
from singrun.namespaces.waiting import Outside
from singrun.origin import Origin
from singrun.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

SCHEME = "instance://"
# What a launch into an instance may say for itself; all else belongs to start.
_FREE = [
    *("verb", "image", "arguments", "directory", "shell", "why", "clean_environment"),
    *("variables", "debug", "plan", "fetch", "join"),
]
_PATIENCE = 10.0  # seconds for a stopped instance to end by itself


class Instance:
    """One of the caller's. home: what --home said at the start. since: seconds of the epoch."""

    def __init__(self, connection: int, pid: int) -> None:
        said = rendezvous.heard(connection).decode("utf-8", "surrogateescape").split("\0")
        self.pid = pid
        self.name, self.image, self.home, since = said
        self.since = int(since)


def find(word: str) -> Instance | None:
    """Return what instance://NAME or the path of an image names."""
    if word.startswith(SCHEME):
        called = rendezvous.name("instance", word.removeprefix(SCHEME))
    else:
        try:
            called = rendezvous.of_image(os.stat(word))
        except OSError:
            return None
    connection, pid = rendezvous.reach(called)
    if connection < 0:
        return None
    try:
        return Instance(connection, pid)
    except ValueError:  # it ended before it answered
        return None


def named(word: str) -> Instance:
    """Return the instance of that name or of that image, else RunError."""
    names = [word] if word.startswith(SCHEME) or "/" in word else [SCHEME + word, word]
    for each in names:
        if found := find(each):
            return found
    raise RunError(f"There is no instance {word}", remedy="See: singrun instances")


def join(request: Request) -> None:
    """Become the program in the instance that the request names; return if there is none.

    A request by image and with options of its own is a launch of its own.
    """
    if request.image.startswith(SCHEME):
        instance = named(request.image)
        if options := _shaping(request):
            why = f"What it shares was decided when it was started: {', '.join(options)}."
            remedy = "Start another with these options, or leave them out."
            raise RunError(f"Cannot change {request.image}", why=why, remedy=remedy)
    else:
        found = find(request.image)
        if not found or request.plan or _shaping(request):
            return
        instance = found
    _enter(request, instance)


def _shaping(request: Request) -> list[str]:
    plain = vars(Request())
    given = vars(request).items()
    return [name for name, value in given if value != plain[name] and name not in _FREE]


def _enter(request: Request, instance: Instance) -> "NoReturn":
    if instance.home:
        request.home = ("", instance.home)
    origin, outside = Origin(request), Outside()
    try:
        others = Others(instance.pid)
    except OSError as error:
        why = f"{error.strerror}."
        raise RunError(f"Cannot enter the instance {instance.name}", why=why) from None
    if not others.are_ours():
        raise RunError(f"Cannot enter the instance {instance.name}", why="It is not this user's.")
    others.enter_owner("pid", "ipc", "uts")
    outside.fork(own_pids=False)
    others.enter_mounts()
    origin.execute(instance.image, outside)


def running() -> list[Instance]:
    """Return the caller's instances, by name. proc(5), /proc/net/unix."""
    prefix = "@" + rendezvous.name("instance", "")
    with open("/proc/net/unix", errors="surrogateescape") as file:
        names = {
            line.rpartition(" ")[2].strip().removeprefix(prefix) for line in file if prefix in line
        }
    found = (find(SCHEME + name) for name in sorted(names))
    return [each for each in found if each]


def listing(words: list[str]) -> str:
    """Return what ``singrun instances [--json]`` prints."""
    if words not in ([], ["--json"]):
        raise UsageError(f"Cannot understand {words[0]}", remedy="Say singrun instances [--json].")
    import json
    import time

    rows = [vars(each) for each in running()]
    if words:
        return json.dumps([{k: v for k, v in row.items() if k != "home"} for row in rows]) + "\n"
    if not rows:
        return ""
    lines = [f"{'NAME':20} {'PROCESS':>8}  {'SINCE':19}  IMAGE"]
    for row in rows:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["since"]))
        lines.append(f"{row['name']:20} {row['pid']:8}  {since}  {row['image']}")
    return "\n".join(lines) + "\n"


def stop(words: list[str]) -> str:
    """End the instances that the words name, and all that runs in them."""
    import select
    import signal

    if not words:
        raise UsageError("No instance was given to stop", remedy="See: singrun instances")
    for instance in [named(word) for word in words]:
        holder = os.pidfd_open(instance.pid)
        for number, seconds in ((signal.SIGTERM, _PATIENCE), (signal.SIGKILL, _PATIENCE)):
            try:
                signal.pidfd_send_signal(holder, number)
            except ProcessLookupError:
                break
            if select.select([holder], [], [], seconds)[0]:
                break
        os.close(holder)
    return ""


def check_name(request: Request) -> None:
    """Give the instance to be started its name: the word after the image, else the image's."""
    name = (request.arguments or [os.path.basename(os.path.abspath(request.image))])[0]
    plain = name.replace("-", "").replace("_", "").replace(".", "")
    if len(request.arguments) > 1 or len(name) > 64 or not (plain.isascii() and plain.isalnum()):
        remedy = "Say: singrun start IMAGE NAME, with letters, digits, . _ and - in NAME."
        raise UsageError(
            f"Cannot name an instance {' '.join(request.arguments) or name}", remedy=remedy
        )
    request.arguments, request.pid = [name], True
