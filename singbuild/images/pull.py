"""``pull``: an image of a registry, an engine or an archive becomes a file."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path
from typing import TextIO

from singbuild import build
from singbuild.console.display import Console, JsonConsole
from singbuild.console.events import Event
from singbuild.console.sizes import binary
from singbuild.errors import UsageError
from singbuild.plan import plan
from singbuild.plan.options import Options
from singbuild.recipe import grammar
from singbuild.recipe.grammar import Recipe
from singbuild.recipe.text import Text

SCHEMES = ("docker", "docker-daemon", "docker-archive", "oci", "oci-archive")


class LayersConsole(Console):
    """Shows an image's name and its layers, as Singularity 2.x did."""

    def __init__(self, out: TextIO, name: str, *, quiet: bool = False) -> None:
        super().__init__(out, quiet=quiet)
        self._name = name

    def _plain(self, event: Event) -> str:
        """Name the source, its layers and the file; the rest is the same for every image."""
        if event.name == "start":
            return self._name
        if event.name == "done":
            return f"{event['image']}: {binary(event['bytes'])}"
        return str(event["text"]) if event.name == "line" and " layer: " in event["text"] else ""


def pull(
    source: str,
    target: Path,
    *,
    force: bool,
    once: bool,
    arch: str = "",
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Build the image that ``source`` names, as SCHEME://NAME; return the exit status.

    as_json: print events; once: leave a target that is there as it is, and wait for who is just
    making it; arch: the machine that it is for, "" for this one.
    """
    loaded = recipe(source)
    if once:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(target.parent / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)  # until this process ends
        if target.exists():
            return 0
    scheme, name = _parted(source)
    shown = _shown(name) if scheme == "docker" else name
    console: Console = LayersConsole(sys.stdout, shown, quiet=quiet)
    if as_json:
        console = JsonConsole(sys.stdout)
    options = Options(force=force, test=False, use_cache=False)
    return build.build(plan.make(loaded, console, arch), target, options, console)


def recipe(source: str, *, insecure: bool = False) -> Recipe:
    """Return the recipe whose image is the one that ``source`` names. insecure: by plain http.

    Raises UsageError when it names none.
    """
    scheme, name = _parted(source)
    if scheme not in SCHEMES or not name:
        raise UsageError(
            f"{source} does not name an image",
            remedy=f"Say docker://ubuntu:latest, or one of {', '.join(SCHEMES)} and its name.",
        )
    if not is_text(source):
        raise UsageError(
            f"{source!a} is not UTF-8 text, and cannot be in the image's recipe",
            remedy="Give the file another name, such as: ln -s OLD NEW",
        )
    more = "Insecure: yes\n" if insecure and scheme == "docker" else ""
    return grammar.parse(Text(source, f"Bootstrap: {scheme}\nFrom: {name}\n{more}"))


def _parted(source: str) -> tuple[str, str]:
    """Return scheme and name; "//" between them is not needed."""
    scheme, _, name = source.partition(":")
    return scheme, name.removeprefix("//")


def is_text(word: str) -> bool:
    """Whether a word of the command line can be encoded again as UTF-8."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def default_target(source: str) -> Path:
    """Return the file for an image when none is named: docker://python:3 gives python.img."""
    name = source.partition(":")[2].rstrip("/").rpartition("/")[2]
    return Path(name.partition("@")[0].partition(":")[0] + ".img")


def _shown(name: str) -> str:
    """Return a name without its registry, as its owner's page has it: library/ubuntu:latest."""
    first, slash, rest = name.partition("/")
    if slash and (set(first) & {".", ":"} or first == "localhost"):
        name = rest
    elif not slash:
        name = f"library/{name}"
    return name if set(name.rpartition("/")[2]) & {":", "@"} else f"{name}:latest"
