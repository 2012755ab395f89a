"""The values that pass between the engine and a backend.

A plugin imports these from ``singbuild``; ``hookspecs.py`` says when each is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from singbuild.errors import RecipeKeyError

API_VERSION = 1
"""Version of the plugin contract. It grows by addition; see hookspecs.py."""

Pins = Mapping[str, Any]
"""What the inputs of one build were pinned to: plain YAML values under string keys."""


@dataclass(frozen=True)
class Keyword:
    """A header key that a backend understands.

    name: as documented, matched in any case; help: one line; required: the
    recipe must give it; default: what is assumed, shown by ``singbuild backends NAME``.
    """

    name: str
    help: str
    required: bool = False
    default: str = ""


@dataclass(frozen=True)
class Program:
    """A host program that a backend executes, and the Debian package that has it."""

    name: str
    package: str


@dataclass(frozen=True)
class Format:
    """A kind of image file.

    help: one line; endings: of names of targets that mean it, such as ".sif"; programs: of the
    host, that write it; directory: it is no file; executable: the kernel can start it.
    """

    help: str
    endings: tuple[str, ...] = ()
    programs: tuple[Program, ...] = ()
    directory: bool = False
    executable: bool = False


@dataclass(frozen=True)
class About:
    """What an image says of itself, for formats that keep it beside the tree.

    definition: its recipe, b"" for none; labels; attributes: what ``inspect --json`` of Apptainer
    shows; bill: makes the bill of materials, SPDX 2.3 in JSON; created: the image's date, seconds
    since 1970; machine: as Go calls it, such as amd64.
    """

    definition: bytes
    labels: Mapping[str, str]
    attributes: Mapping[str, Any]
    bill: Callable[[], str]
    created: int
    machine: str


@dataclass(frozen=True)
class Transport:
    """A kind of place that has images, named by a URI's scheme.

    help: one line; layers: it takes OCI layouts of layers, not images' files.
    """

    help: str
    layers: bool = False


@dataclass(frozen=True)
class Needs:
    """What a backend needs before anything is created.

    space: bytes that the scratch will need at least; root: it makes devices or
    files of several owners; an ordinary user gets those only where the host helps;
    foreign: it fills a tree for another kind of machine too, executing nothing of it.
    """

    keywords: tuple[Keyword, ...] = ()
    programs: tuple[Program, ...] = ()
    space: int = 16 << 20
    root: bool = False
    foreign: bool = False


@dataclass(frozen=True)
class Build:
    """One build, as an extension sees it.

    recipe: the path as the user named it; text: what it says, after rendering; bootstrap: its
    ``Bootstrap:`` word; keywords: the header's values under the backend's own spelling;
    sections: their text, by name in small letters ("post", not "%post"); image: the target;
    command: what was called, "build", "pull" (which has no sections), "bootstrap" or "plan" (after
    which nothing is built); locked: whether the build keeps to a lock; stages: the recipe's
    earlier ones that are built, each of which is checked by itself.
    """

    recipe: str
    text: str
    bootstrap: str
    keywords: Mapping[str, str]
    sections: Mapping[str, str]
    image: Path
    command: str = "build"
    locked: bool = False
    stages: tuple[Build, ...] = ()


@dataclass(frozen=True)
class Finished:
    """How a build ended. status: the exit status; seconds: it took; size: bytes, 0 for no image."""

    status: int
    seconds: float
    size: int


class Reporter(Protocol):
    """How a backend tells the user what it is doing."""

    def line(self, text: str) -> None:
        """Print one line of the current phase's output; it also goes to the log."""

    def warn(self, text: str) -> None:
        """Print a warning that the user should read."""

    def progress(self, label: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` units are finished; ``total`` 0 means unknown.

        From 65,536 on they are taken as bytes, and shown with a unit and a rate.
        """


@dataclass(frozen=True)
class Source:
    """Where one build's root file system comes from: the recipe's header, checked.

    keywords: header values under the backend's own spelling; keys that the
    recipe leaves out are missing here, except those with a default.
    arch: the machine as ``uname -m`` prints it.
    cache: a directory of the backend's own, kept from build to build and shared
    by builds that run at the same time.
    report: how to tell the user what happens.
    bootstrap: the recipe's ``Bootstrap:`` word, for a plugin that goes by several.
    locked: the pins to keep to, from a lock; empty without one.
    config: what a Dockerfile made of the image's configuration, the object ``config`` of the OCI
    image specification; None without one.
    mirrors: URLs of archives by the names that configuration files give them, such as "debian":
    for recipes that name none. Keywords that are such a name have the URL already.
    """

    keywords: Mapping[str, str]
    arch: str
    cache: Path
    report: Reporter
    bootstrap: str = ""
    locked: Pins = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    mirrors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Defaults:
    """What a source says of itself; the recipe's own sections win.

    environment: variables for ``env/10-docker2singularity.sh``, values are data;
    runscript: text of a script, "" for none; labels: names and values.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    runscript: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RemoteSignature:
    """A signature that lies beside an image in a registry; nobody has checked it.

    kind: the payload's type; signed: the bytes that the signature is over, which for an in-toto
    statement are its encoding as DSSE has it; place: where it lies, in words.
    """

    kind: str
    payload: bytes
    signed: bytes
    signature: bytes
    place: str


def is_yes(keywords: Mapping[str, str], keyword: str) -> bool:
    """Return whether a header's keyword says yes; one that is left out, or empty, does not.

    Raises RecipeKeyError for a value that is neither yes nor no.
    """
    value = keywords.get(keyword, "").strip().lower()
    if value not in ("yes", "true", "1", "no", "false", "0", ""):
        raise RecipeKeyError(
            keyword, f"{keyword}: {value!r} is neither yes nor no", remedy="Write yes or no."
        )
    return value in ("yes", "true", "1")
