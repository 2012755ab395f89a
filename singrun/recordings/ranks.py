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
from singrun.namespaces import job_step, joining
from singrun.recordings import calls, directory, facts, form, recording

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
    """The recording of a set, whose name's lock this process holds until ``let_go``."""

    let_go: "Callable[[], None]"

    def begin(self, pid: str, marker: str) -> None:
        """Begin anew, in the set's namespaces: the calls so far are those of this process alone."""
        self._records.insert(0, ("q", pid, marker))
        self._calls.records, self._calls.is_whole = [*_JOIN], True
        self._calls.looks.clear()
        self._calls.forget_descriptors()

    def finish(self, image: str, variables: "Environment") -> None:
        """Write it, and let the ranks that wait for it go on."""
        # It joined, and FUSE serves the image: only the process that mounted it knows which files
        # are the image's own.
        if self._tree < 0 and self._calls.files < 0:
            self._calls.stop()
            self.let_go()
            return
        count = len(self._calls.records)
        try:
            assignments.scripts()  # only what it looks at is of interest
        except RunError:
            self._calls.is_whole = False
        del self._calls.records[count:]
        super().finish(image, variables)
        self.let_go()  # the locked name is another file's now, which stays


def begin(
    words: "list[str]",
    request: "Request",
    image: "Image",
    site: "Site",
    table: "Table",
    origin: "Origin",
    ranks: joining.RankSet,
    let_go: "Callable[[], None] | None",
) -> "Callable[[], None] | None":
    """Gather what the recording of a set rests on; return what begins it in the set's namespaces.

    words: those before the program. let_go: releases the lock on the set's name; None: only that
    there are ranks is noted. None: such ranks are not recorded.
    """
    if not recording.is_plain(words, request, image, site, table, origin, joins=True):
        return None
    own, command = ranks.pid, [sys.argv[0], *words]
    jobs = [] if request.isolation.join else joining._JOBS
    values = [os.environ.get(each, "") for each in jobs]
    name = form.set_name(command, os.getcwd(), os.environ.get("PWD", ""), values)
    one: SetRecording | None = None
    try:
        place = directory.opened()
        if let_go:
            directory.make_room_for_set(place)
            records = _facts(words, jobs, image, request, site, table, origin.caller)
            more, tree, program = recording.of_files(image, request, site)
            notes = calls.Calls(program)
            parts = ((place, name), tree, notes, records + more, request, origin.caller)
            one = SetRecording(*parts)
            one.let_go = let_go
    except (OSError, RunError, facts.UncertainError):
        return None

    def note() -> None:
        if let_go or ranks.pid != own:  # a launch that nobody joins does not come again
            directory.write_link(place, form.ranks_name(command), _text(jobs))
        if one:
            one.begin(ranks.pid, ranks.marker)
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
) -> "facts.Facts":
    """Return what joining and execute() rest on, but for the image's files."""
    records = facts.host(words, site, caller, table, joins=True)
    records += [("h" if name in os.environ else "n", name) for name in job_step._RANKS]
    records += [facts.variable(name) for name in (*job_step._LOCAL_SIZES, *jobs)]
    records += [facts._file(f"/proc/self/ns/{name}") for name in joining._HOST]
    return records + facts.of_image(image, request.image.path)
