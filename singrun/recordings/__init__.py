"""Launches that a program in C can play again: their system calls, and the facts they rest on."""

import os
import sys

from singrun.images import strategies
from singrun.namespaces import job_step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from singrun.config import Site
    from singrun.environment.inherited import Environment
    from singrun.images.image import Image
    from singrun.mounts.launch_table import Table
    from singrun.namespaces import joining
    from singrun.origin import Origin
    from singrun.request import Request


def begin(
    request: "Request", image: "Image", site: "Site", table: "Table", origin: "Origin"
) -> "Callable[[str, Environment], None] | None":
    """Note what follows, where there is a player for it; return what writes it down at the end."""
    if job_step.want_joining(request):
        return None  # of_ranks() has seen to it
    let_go()
    words = _recordable(request, image, site, origin)
    if not words:
        return None
    from singrun.recordings import directory

    place = directory.place_of(words)
    if place is None:
        return None
    from singrun.recordings import recording  # once for many launches

    return recording.begin(place, words, request, image, site, table, origin)


def of_ranks(
    request: "Request",
    image: "Image",
    site: "Site",
    table: "Table",
    origin: "Origin",
    ranks: "joining.RankSet",
) -> "Callable[[], None] | None":
    """Return what notes, in the namespaces of ``ranks``, how others get there; None for nothing."""
    lock, note = int(sys._xoptions.get("set", -1)), None  # the player's, on the name of a set
    if lock >= 0:
        os.set_inheritable(lock, False)  # no program shall have it
    words = _recordable(request, image, site, origin)
    if words:
        from singrun.recordings import ranks as ranks_

        release = let_go if lock >= 0 else None
        note = ranks_.begin(words, request, image, site, table, origin, ranks, release)
    if not note:
        let_go()
    return note


def let_go() -> None:
    """Remove the set's name and release the lock on it, both of which the player made.

    Ranks that wait for it go on without a recording, later ones do not wait.
    """
    lock = int(sys._xoptions.pop("set", -1))
    if lock < 0:
        return
    try:
        os.unlink(os.readlink(f"/proc/self/fd/{lock}"))
    except OSError:
        return  # it has another name, or none
    finally:
        os.close(lock)


def _recordable(request: "Request", image: "Image", site: "Site", origin: "Origin") -> "list[str]":
    """Return the words before the program, where there is a player for such a launch."""
    if not origin.directory.physical:  # a recording is of the directory, too
        return []
    player = f"{os.path.dirname(sys.argv[0])}/recordings/player"
    has_player = os.environ.get("SINGRUN_PLAYER") != "no" and os.access(player, os.X_OK)
    if not has_player or not strategies.to_read(image, request.image, site):
        return []
    if not site.on["record launches"] or request.program.verb != "exec" or not os.geteuid():
        return []
    from singrun.recordings import directory, form

    letters = sys._xoptions.get("player")
    if not letters:  # it has not been tried: bin/singrun
        directory.try_player(player)
    if letters != form.FIELDS:  # one of another version would read no recording of ours
        return []
    return sys.argv[1 : len(sys.argv) - len(request.program.arguments)]
