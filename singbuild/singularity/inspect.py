"""``inspect``, ``apps``, ``run-help``: what an image says of itself, as 3.x prints it.

The JSON is {"data": {"attributes": {…}}, "type": "container"}; what was not asked for, and what
the image does not have, is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import click

from singbuild.errors import SingbuildError

_HOME = b".singularity.d"
_LARGEST = 16 << 20  # bytes of a part
_FILES = {
    "deffile": (b"Singularity",),
    "runscript": (b"runscript",),
    "startscript": (b"startscript",),
    "test": (b"test",),
    "helpfile": (b"runscript.help",),
}
"""Attributes of 3.x that are one file each, by their names in the JSON."""
_ALL = ("labels", "environment", *_FILES)


class Tree(Protocol):
    """The files of an image, whatever it is: paths are bytes, relative to its root."""

    def chunks(self, path: bytes) -> Iterator[bytes] | None:
        """Return a regular file's content in pieces; None when there is no such file."""

    def names(self, path: bytes) -> Any:
        """Return what a directory holds: name, and whether it is a directory."""


@click.command("inspect", epilog="\b\nExample:\n  singularity inspect --json debian.sif\n")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("-j", "--json", "as_json", is_flag=True, help="As JSON.")
@click.option("-l", "--labels", is_flag=True, help="The labels; also when nothing is asked for.")
@click.option("-d", "--deffile", is_flag=True, help="The recipe.")
@click.option("-r", "--runscript", is_flag=True, help="The runscript.")
@click.option("--startscript", is_flag=True, help="What an instance starts.")
@click.option("-t", "--test", is_flag=True, help="The test.")
@click.option("-e", "--environment", is_flag=True, help="The environment's scripts.")
@click.option("-H", "--helpfile", is_flag=True, help="The help text.")
@click.option("--list-apps", is_flag=True, help="The names of its applications.")
@click.option("--all", "everything", is_flag=True, help="All of it, as JSON.")
def inspect(image: Path, as_json: bool, everything: bool, list_apps: bool, **wanted: bool) -> int:
    """Say what IMAGE says of itself. It is not executed, and needs no root."""
    names = [name for name in _ALL if wanted[name] or everything]
    with opened(image) as tree:
        found = attributes(tree, names or ([] if list_apps else ["labels"]))
        listed = _apps(tree) if list_apps or everything else []
    if as_json or everything:
        if listed or list_apps:
            found["apps"] = {name: {} for name in listed}
        document = {"data": {"attributes": found}, "type": "container"}
        print(json.dumps(document, indent="\t", sort_keys=True))
        return 0
    for name in listed:
        print(name)
    for name, value in found.items():
        print(_told(name, value), end="")
    return 0


@click.command("apps")
@click.argument("image", type=click.Path(path_type=Path))
def apps(image: Path) -> int:
    """List the applications in IMAGE, one a line."""
    with opened(image) as tree:
        for name in _apps(tree):
            print(name)
    return 0


@click.command("run-help")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--app", metavar="NAME", help="The application's.")
def run_help(image: Path, app: str | None) -> int:
    """Print IMAGE's help text."""
    path = _HOME + b"/runscript.help"
    if app:
        path = f"scif/apps/{app}/scif/runscript.help".encode()
    with opened(image) as tree:
        text = _text(tree, path)
    print(text or "No help sections were defined for this image", end="\n" * (not text))
    return 0


def attributes(tree: Tree, names: list[str]) -> dict[str, Any]:
    """Return the attributes that the image has, in the order of ``names``."""
    found: dict[str, Any] = {}
    for name in names:
        if name == "labels":
            value: Any = _labels(tree)
        elif name == "environment":
            value = _environment(tree)
        else:
            value = next(filter(None, (_text(tree, _HOME + b"/" + f) for f in _FILES[name])), "")
        if value:
            found[name] = value
    return found


@contextmanager
def opened(path: Path) -> Iterator[Tree]:
    """Open an image as a tree, for the time of a with-block. Raises ImageError."""
    if path.is_dir():
        from singbuild.packages.tree import DirectoryTree
        from singbuild.tree.root_directory import RootDirectory

        yield DirectoryTree(RootDirectory(path))
        return
    from singbuild.ext3.reader.image import Image
    from singbuild.packages.tree import ImageTree

    with Image(path) as image:
        yield ImageTree(image)


def _apps(tree: Tree) -> list[str]:
    return sorted(name.decode(errors="replace") for name, _ in tree.names(b"scif/apps"))


def _labels(tree: Tree) -> dict[str, str]:
    try:
        found = json.loads(_text(tree, _HOME + b"/labels.json") or "{}")
    except (ValueError, RecursionError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _environment(tree: Tree) -> dict[str, str]:
    directory = _HOME + b"/env"
    names = [name for name, is_directory in tree.names(directory) if not is_directory]
    texts = {b"/" + directory + b"/" + n: _text(tree, directory + b"/" + n) for n in sorted(names)}
    return {path.decode(errors="replace"): text for path, text in texts.items() if text}


def _text(tree: Tree, path: bytes) -> str:
    """Return a file as text; "" when there is none. Raises SingbuildError for a huge one."""
    content = b""
    for chunk in tree.chunks(path) or ():
        content += chunk
        if len(content) > _LARGEST:
            raise SingbuildError(f"/{path.decode(errors='replace')} is larger than 16 MiB")
    return content.decode(errors="replace")


def _told(name: str, value: Any) -> str:
    """Return an attribute as lines for people."""
    if name == "labels":
        return "".join(f"{key}: {each}\n" for key, each in sorted(value.items()))
    if isinstance(value, Mapping):
        return "".join(f"=== {path} ===\n{text}\n" for path, text in value.items())
    return f"{value.rstrip()}\n"
