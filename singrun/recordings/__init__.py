"""Launches that a program in C can play again: their system calls, and the facts they rest on."""

import os
import sys

from singrun.images import strategies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from singrun.config import Site
    from singrun.environment.inherited import Environment
    from singrun.images.image import Image
    from singrun.mounts.launch_table import Table
    from singrun.origin import Origin
    from singrun.request import Request


def begin(
    request: "Request", image: "Image", site: "Site", table: "Table", origin: "Origin"
) -> "Callable[[str, Environment], None] | None":
    """Note what follows, where there is a player for it; return what writes it down at the end."""
    player = f"{os.path.dirname(sys.argv[0])}/recordings/player"
    has_player = os.environ.get("SINGRUN_PLAYER") != "no" and os.access(player, os.X_OK)
    if not has_player or not strategies.to_read(image, request.image, site):
        return None
    if not site.on["record launches"] or request.program.verb != "exec" or not os.geteuid():
        return None
    from singrun.recordings import directory, form

    letters = sys._xoptions.get("player")
    if not letters:  # it has not been tried: bin/singrun
        directory.try_player(player)
    if letters != form.FIELDS:  # one of another version would read no recording of ours
        return None
    words = sys.argv[1 : len(sys.argv) - len(request.program.arguments)]
    place = directory.place_of(words)
    if place is None:
        return None
    from singrun.recordings import recording  # once for many launches

    return recording.begin(place, words, request, image, site, table, origin)
