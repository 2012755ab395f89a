"""Ranks that join a set of namespaces are played, too: the recording of a set, and how it is found.

The first rank, or one that has joined it, records what the others have to do: the very calls of
joining.RankSet and Origin.execute(). Its process is a fact, so such a recording is of one set
and dies with it. A link tells the player that ranks have started these words before, and what
their set's name is made of; where it leads them to no recording, one of them becomes Python with
a lock on that name, and the others wait for it. docs/architecture.md.
"""

import os
import sys

from singrun import syscalls
from singrun.environment import assignments
from singrun.errors import RunError
from singrun.images import strategies
from singrun.namespaces import job_step, joining
from singrun.recordings import calls, directory, facts, form, recording
from singrun.request import UNPACK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from singrun.config import Site
    from singrun.environment.inherited import Environment
    from singrun.identity import Caller
    from singrun.images.image import Image
    from singrun.mounts.launch_table import Table
    from singrun.origin import Origin
    from singrun.request import Request

_JOIN: "list[form.Record]" = [
    ("j", 2, syscalls.CLONE_NEWUSER),
    ("j", 0, syscalls.CLONE_NEWNS),
    ("j", 1, syscalls.CLONE_NEWUSER),
    ("P", syscalls.PR_SET_DUMPABLE, 1, 0),
]


class SetRecording(recording.Recording):
    """The recording of a set. lock: of its name, which this process holds."""

    def __init__(
        self,
        place: "tuple[int, str]",
        tree: int,
        records: "facts.Facts",
        request: "Request",
        caller: "Caller",
        lock: int,
    ) -> None:
        notes = calls.Calls()
        notes.records += _JOIN
        super().__init__(place, tree, notes, records, request, caller)
        self._lock = lock

    def finish(self, image: str, variables: "Environment") -> None:
        """Write it, and let the ranks that wait for it go on."""
        count = len(self._calls.records)
        try:
            assignments.scripts()  # only what it looks at is of interest
        except RunError:
            self._calls.is_whole = False
        del self._calls.records[count:]
        super().finish(image, variables)
        os.close(self._lock)


def begin(
    words: "list[str]",
    request: "Request",
    image: "Image",
    site: "Site",
    table: "Table",
    origin: "Origin",
    ranks: joining.RankSet,
    lock: int,
) -> "Callable[[], None] | None":
    """Gather what the recording of a set rests on; return what begins it in the set's namespaces.

    words: those before the program. lock: of the set's name; -1: only that there are ranks is
    noted. None: such ranks are not recorded.
    """
    if not recording.is_plain(words, request, image, site, table, origin, joins=True):
        return None
    if strategies.to_read(image, request.image, site) != UNPACK:
        return None
    own, command = ranks.pid, [sys.argv[0], *words]
    jobs = [] if request.isolation.join else joining._JOBS
    values = [os.environ.get(each, "") for each in jobs]
    name = form.set_name(command, os.getcwd(), os.environ.get("PWD", ""), values)
    records: facts.Facts = []
    tree = -1
    try:
        place = directory.opened()
        if lock >= 0:
            directory.make_room_for_set(place)
            records, tree = _facts(words, jobs, image, request, site, table, origin.caller)
    except (OSError, RunError, facts.UncertainError):
        return None

    def note() -> None:
        if lock >= 0 or ranks.pid != own:  # a launch that nobody joins does not come again
            directory.write_link(place, form.ranks_name(command), _text(jobs))
        if lock >= 0:
            rows = [("q", ranks.pid, ranks.marker), *records]
            one = SetRecording((place, name), tree, rows, request, origin.caller, lock)
            origin.note_end = one.finish

    return note


def _text(jobs: "list[str]") -> str:
    """Return the text of the link: the variable that tells ranks, then those of the job."""
    ranks = [name for name in job_step._RANKS if name in os.environ]
    return ":".join([*ranks[:1], *jobs]) if jobs else "-"


def _facts(
    words: "list[str]",
    jobs: "list[str]",
    image: "Image",
    request: "Request",
    site: "Site",
    table: "Table",
    caller: "Caller",
) -> "tuple[facts.Facts, int]":
    """Return what joining and execute() rest on, and the image's files in the cache."""
    records = facts.host(words, site, caller, table, joins=True)
    records += [("h" if name in os.environ else "n", name) for name in job_step._RANKS]
    records += [facts.variable(name) for name in (*job_step._LOCAL_SIZES, *jobs)]
    records += [facts._file(f"/proc/self/ns/{name}") for name in joining._HOST]
    records += facts.of_image(image, request.image.path)
    cached = f"{site.cache}/{image.stamp}"
    records += facts.of_cache(site.cache, cached)
    return records, os.open(f"{cached}/tree", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
