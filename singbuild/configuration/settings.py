"""Every setting of a configuration file: its kind, its built-in value, its variables.

docs/configuration.md says what each does; a test holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from singrun import config, errors

MIRROR = "mirror "
"""Begins the name of a mirror's setting; the rest is the mirror's own name."""

YES, NO = ("yes", "y", "1", "true", "on"), ("no", "n", "0", "false", "off")
_MIRROR_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class Setting:
    """One thing that may be set.

    complaint: says what is wrong with a value, "" for nothing; default: the value that is built
    in; variables: those of the environment that come before the files, the first first;
    option: of ``singbuild build``, whose default it is; policy: no file takes back another's "no".
    """

    complaint: Callable[[str], str]
    default: str = ""
    variables: tuple[str, ...] = ()
    option: str = ""
    policy: bool = False


def complaint_of_variable(name: str, text: str) -> str:
    """Return what is wrong with a variable's value; directories and URLs are tried as they are."""
    complaint = SETTINGS[name].complaint
    return complaint(text) if complaint in (_size, _switch) else ""


def is_yes(text: str) -> bool:
    """Whether a switch is on."""
    return text.lower() in YES


def _directory(text: str) -> str:
    return "" if text.startswith(("/", "$")) else "is not an absolute path"


def _size(text: str) -> str:
    try:
        config.size_of(text, "")
    except errors.RunError:
        return "is not a size, such as 500M or 2G"
    return ""


def _switch(text: str) -> str:
    return "" if text.lower() in (*YES, *NO) else "is neither yes nor no"


def _url(text: str) -> str:
    return "" if re.fullmatch(r"(https?|file)://[^\s\"'`\\]+", text) else "is not a URL"


def _word(text: str) -> str:
    return "" if re.fullmatch(r"[a-z0-9-]+", text) else "is not one word"


def _words(text: str) -> str:
    return "" if re.fullmatch(r"[a-z0-9-]+([ ,]+[a-z0-9-]+)*", text) else "is not a list of words"


def one_of(*choices: str) -> Callable[[str], str]:
    """Return the complaint about values that are none of the choices."""
    return lambda text: "" if text in choices else f"is none of {', '.join(choices)}"


def _of_peers(name: str) -> tuple[str, ...]:
    return f"SINGBUILD_{name}", f"APPTAINER_{name}", f"SINGULARITY_{name}"


SETTINGS = {
    "cache directory": Setting(_directory, "~/.cache/singbuild", _of_peers("CACHEDIR")),
    "cache size": Setting(_size, "20G", ("SINGBUILD_CACHE_SIZE",)),
    "scratch directory": Setting(_directory, "/var/tmp", (*_of_peers("TMPDIR"), "TMPDIR")),  # noqa: S108
    "offline": Setting(_switch, "no", ("SINGBUILD_OFFLINE",)),
    "library": Setting(_url, "", _of_peers("LIBRARY")),
    "build format": Setting(_word, option="--format"),
    "build free": Setting(_size, "0", option="--free"),
    "build locked": Setting(_switch, "no", option="--locked"),
    "build no-cache": Setting(_switch, "no", option="--no-cache"),
    "build notest": Setting(_switch, "no", option="--notest"),
    "build on-error": Setting(one_of("shell", "keep"), option="--on-error"),
    "build privilege": Setting(one_of("root", "subuid", "one-id", "chroot"), option="--privilege"),
    "build quiet": Setting(_switch, "no", option="--quiet"),
    "allow backend": Setting(_words, policy=True),
    "allow host sections": Setting(_switch, "yes", policy=True),
    "allow root": Setting(_switch, "yes", policy=True),
    "allow unlocked": Setting(_switch, "yes", policy=True),
    "allow unverified": Setting(_switch, "yes", policy=True),
}


def by_name(name: str) -> Setting | None:
    """Return the setting of a name, None if there is none."""
    if name.startswith(MIRROR) and _MIRROR_NAME.fullmatch(name.removeprefix(MIRROR)):
        return Setting(_url)
    return SETTINGS.get(name)
