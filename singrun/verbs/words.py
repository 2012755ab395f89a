"""Every word of the command line and what it takes, for completion in shells.

No launch imports it. A row is (place, word, takes, help): place is the command so far, such as
"singrun exec"; word an option, a verb, a number for the word in that position, "*" for all further
ones, or "." where options end at the first word. takes is "command", "-" for a flag, or what
a value is: "words A B", "file .img .sif", "directory", "output COMMAND", "" for anything.
"""

from singrun.images import strategies
from singrun.mounts import launch_table
from singrun.options import FLAGS, SHORT, TEXTS
from singrun.verbs import cache, manual

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Row = tuple[str, str, str, str]

IMAGE = "file .img .sif .sqfs .simg .ext3"
INSTANCES = "output singrun instances"
_TAKES = {
    "bind": "file",
    "cdi-dirs": "directory",
    "env-file": "file",
    "home": "directory",
    "mount-with": " ".join(["words", *strategies.NAMES]),
    "network": "words none",
    "no-mount": " ".join(["words", *launch_table.NAMES]),
    "overlay": "file",
    "pid-file": "file",
    "security": "words uid: gid:",
    "workdir": "directory",
}
_POSITIONS = {  # what the words are that stand behind a verb
    "cache": [" ".join(["words", *cache.VERBS])],
    "config": ["words show"],
    "doctor": [],
    "exec": [IMAGE, "*file"],
    "help": [f"words {' '.join(manual.VERBS)}"],
    "instance": ["words start run list stop stats", INSTANCES, "*file"],
    "instances": [],
    "mount": [IMAGE, "directory", "*file"],
    "start": [IMAGE, "", "*file"],
    "stop": [f"*{INSTANCES}"],
}
_OF_IMAGES = ("mpi",)  # options whose value is one


def rows(program: str = "singrun") -> "Iterator[Row]":
    """Yield a row for each word."""
    for name in ("debug", *TEXTS):
        yield from _option(program, name, "-", manual.OPTIONS.get(name, ("", ""))[1])
    yield program, "1", IMAGE, ""
    for verb, (_, what, _) in manual.VERBS.items():
        place = f"{program} {verb}"
        yield program, verb, "command", what.partition(". ")[0]
        yield from _option(place, "help", "-", "")
        for name in manual.options_of(verb):
            takes = "-" if name in FLAGS else _TAKES.get(name, "")
            yield from _option(place, name, takes, manual.OPTIONS[name][1])
        for name, (value, what) in manual.OWN.get(verb, {}).items():
            takes = (IMAGE if name in _OF_IMAGES else "") if value else "-"
            yield from _option(place, name, takes, what)
        if verb not in _POSITIONS or verb in ("exec", "mount", "start"):
            yield place, ".", "", ""
        for number, takes in enumerate(_POSITIONS.get(verb, [IMAGE, "*file"]), 1):
            yield place, "*" if takes.startswith("*") else str(number), takes.lstrip("*"), ""


def _option(place: str, name: str, takes: str, what: str) -> "Iterator[Row]":
    for letter, long in SHORT.items():
        if long == name and (place.count(" ") or name in ("debug", "help")):
            yield place, f"-{letter}", takes, what
    yield place, f"--{name}", takes, what
