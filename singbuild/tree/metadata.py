"""Writes what an image says of itself: ``/.singularity.d`` and the 2.x names.

``docs/image-format.md`` is the contract. Modules that read them in finished images have their own
names for these paths: ``images/inspection.py``, ``packages/spdx.py``, ``about.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence

from singbuild.contract import Defaults
from singbuild.errors import ImageError
from singbuild.recipe.grammar import Recipe, Section
from singbuild.recipe.text import unquoted
from singbuild.tree import apps
from singbuild.tree.actions import ACTIONS, BASE
from singbuild.tree.rootfs import Rootfs

HOME = "/.singularity.d"
# By the name that recipes of others know, whatever the source is.
SOURCE_ENVIRONMENT = f"{HOME}/env/10-docker2singularity.sh"
ENVIRONMENT = f"{HOME}/env/90-environment.sh"
SECTIONS_ENVIRONMENT = f"{HOME}/env/91-environment.sh"
SECTIONS_LABELS = "/.build.labels"
PREPARED = f"{HOME}/.prepared"  # until the seal: what ``prepare`` wrote, path to text, as JSON
BUILD_RECORD = f"{HOME}/build.json"
PROGRAMS: Mapping[str, Sequence[str]] = {"runscript": (), "startscript": (), "test": ("-e",)}
"""Sections that become programs, with a shell's flags for them."""

DIRECTORIES = ("/dev", "/proc", "/sys", "/home", "/var", "/etc")
MOUNTED_FILES = ("passwd", "group", "hosts", "resolv.conf", "localtime")
LINKS = {
    "/singularity": "runscript",
    "/environment": "env/90-environment.sh",
    "/.exec": "actions/exec",
    "/.run": "actions/run",
    "/.shell": "actions/shell",
    "/.test": "actions/test",
}

_READS = re.compile(r"(?<!/etc)/environment\b|90-environment|singularity\.d/env/(\*|\s|$)", re.M)


def prepare(rootfs: Rootfs, recipe: Recipe, defaults: Defaults) -> None:
    """Write what %setup and %post find: the source's own metadata, and empty files for theirs.

    Metadata that the tree already has, because it comes from an image, stays where the recipe says
    nothing.
    """
    with _same_times(rootfs, ("/",)):
        adopt(rootfs)
        for name in ACTIONS:
            rootfs.remove(f"{HOME}/actions/{name}")  # an older version's
        if text := exports(defaults.environment):
            rootfs.write(SOURCE_ENVIRONMENT, text)
        _write_skeleton(rootfs)
        if defaults.runscript:
            rootfs.write(f"{HOME}/runscript", defaults.runscript, 0o755)
        if "environment" in recipe.sections and is_read(recipe):
            rootfs.write(ENVIRONMENT, _body(recipe.sections["environment"]))
        _write_labels(rootfs, _labels(rootfs) | dict(defaults.labels))
        apps.prepare(rootfs, recipe)
        paths = (ENVIRONMENT, *(f"{HOME}/{name}" for name in PROGRAMS))
        rootfs.write(PREPARED, json.dumps({path: _text(rootfs, path) for path in paths}))


def take_prepared(rootfs: Rootfs) -> bytes:
    """Remove the record of what ``prepare`` wrote, which no image has, and return it."""
    record = rootfs.read(PREPARED)
    rootfs.remove(PREPARED)
    return record


def is_read(recipe: Recipe) -> bool:
    """Whether %setup or %post may read the image's environment, which then is there before them.

    Else %environment can change without a new %post.
    """
    return any(_READS.search(_body(recipe.sections.get(name))) for name in ("setup", "post"))


def adopt(rootfs: Rootfs) -> None:
    """Move files in the place of the links /environment and /singularity to where these lead."""
    for link in ("/environment", "/singularity"):
        status = rootfs.status(link, follow=False)
        if status and stat.S_ISREG(status.st_mode):
            rootfs.rename(link, f"{HOME}/{LINKS[link]}")
            rootfs.symlink(link, f".singularity.d/{LINKS[link]}")


def write(rootfs: Rootfs, recipe: Recipe, texts: Mapping[str, str]) -> None:
    """Write what the recipe says, over what ``prepare`` wrote; what sections changed there stays.

    texts: further files of /.singularity.d, name to text.
    """
    with _same_times(rootfs, ("/", "/etc", "/var")):
        adopt(rootfs)
        _write_skeleton(rootfs)  # a section may have removed it
        _write(rootfs, recipe, texts)


@contextlib.contextmanager
def _same_times(rootfs: Rootfs, directories: Sequence[str]) -> Iterator[None]:
    """Keep the times of directories that get entries of ours: nobody else changed them."""
    paths = [path for path in map(rootfs.path, directories) if path.is_dir()]
    times = [path.stat().st_mtime_ns for path in paths]
    yield
    for path, time in zip(paths, times, strict=True):
        os.utime(path, ns=(time, time))


def _write_skeleton(rootfs: Rootfs) -> None:
    """Write what every image has, where it is missing."""
    files = {f"{HOME}/actions/{name}": (text, 0o755) for name, text in ACTIONS.items()}
    files |= dict.fromkeys((SOURCE_ENVIRONMENT, ENVIRONMENT, SECTIONS_ENVIRONMENT), ("", 0o644))
    for path, (text, mode) in {**files, f"{HOME}/env/01-base.sh": (BASE, 0o644)}.items():
        if not rootfs.exists(path):
            rootfs.write(path, text, mode)
    for link, target in LINKS.items():
        rootfs.symlink(link, f".singularity.d/{target}")


def _write(rootfs: Rootfs, recipe: Recipe, texts: Mapping[str, str]) -> None:
    for directory in DIRECTORIES:
        rootfs.mkdir(directory)
    rootfs.mkdir("/root", 0o700)
    for directory in ("/tmp", "/var/tmp"):  # noqa: S108 (inside the image)
        rootfs.mkdir(directory, 0o1777)
    for name in MOUNTED_FILES:
        if rootfs.status(f"/etc/{name}", follow=False) is None:
            rootfs.write(f"/etc/{name}", "")
    record = _json(rootfs, PREPARED)
    if "environment" in recipe.sections and not is_read(recipe):
        script = _body(recipe.sections["environment"])
        added = _text(rootfs, ENVIRONMENT).removeprefix(record.get(ENVIRONMENT, script))
        rootfs.write(ENVIRONMENT, (script + added).encode(errors="surrogateescape"))
        record[ENVIRONMENT] = script
    for name in PROGRAMS:
        _write_program(rootfs, recipe, name, record.get(f"{HOME}/{name}", ""))
    if not rootfs.exists(f"{HOME}/runscript"):
        rootfs.remove("/singularity")  # a link to nothing
    if text := _body(recipe.sections.get("help")):
        rootfs.write(f"{HOME}/runscript.help", text)
    labels = {each.key: each.value for each in recipe.labels}
    _write_labels(rootfs, _labels(rootfs) | labels | _labels_of_sections(rootfs))
    rootfs.remove(SECTIONS_LABELS)
    rootfs.write(PREPARED, json.dumps(record))  # when %test is resumed, this is done again
    apps.write(rootfs, recipe)
    if recipe.text.strip() or not rootfs.exists(f"{HOME}/Singularity"):
        rootfs.write(f"{HOME}/Singularity", recipe.text)
    for name, text in texts.items():
        rootfs.write(f"{HOME}/{name}", text)
    rootfs.write(f"{HOME}/manifest", "")  # the seal fills it


def _write_program(rootfs: Rootfs, recipe: Recipe, name: str, record: str) -> None:
    """Write a section that becomes a program, unless another section wrote that program."""
    section, path = recipe.sections.get(name), f"{HOME}/{name}"
    text = _program(section)
    if section and text:
        if _text(rootfs, path) in ("", record, text):
            rootfs.write(path, text, 0o755)
        else:
            rootfs.report.warn(
                f"{recipe.path}:{section.line}: %{name} has no effect: the build wrote {path}"
            )
    if rootfs.exists(path):
        rootfs.chmod(path, 0o755)  # it may be a section's, made by a redirection


def _write_labels(rootfs: Rootfs, labels: Mapping[str, str]) -> None:
    rootfs.write(f"{HOME}/labels.json", json.dumps(labels, indent=4, sort_keys=True) + "\n")


def _labels_of_sections(rootfs: Rootfs) -> dict[str, str]:
    """Return what sections wrote to $SINGULARITY_LABELS: KEY VALUE a line."""
    lines = _text(rootfs, SECTIONS_LABELS).split("\n")
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return {key: unquoted("".join(value).strip()) for key, *value in pairs}


def _labels(rootfs: Rootfs) -> dict[str, str]:
    """Return the labels that the tree has already; none where they cannot be read."""
    return _json(rootfs, f"{HOME}/labels.json")


def _json(rootfs: Rootfs, path: str) -> dict[str, str]:
    """Return a JSON object of strings; nothing where there is none."""
    try:
        value = json.loads(_text(rootfs, path))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(rootfs: Rootfs, path: str) -> str:
    """Return a file's text, "" where there is none."""
    try:
        return rootfs.read(path).decode(errors="surrogateescape")
    except (OSError, ImageError):
        return ""


def exports(variables: Mapping[str, str]) -> str:
    """Return shell text that exports the variables; values are data, never evaluated."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def _program(section: Section | None) -> str:
    """Return a section as an executable file; "" when it says nothing."""
    if section is None or not section.body().strip():
        return ""
    return section.executable(*PROGRAMS[section.name])


def _body(section: Section | None) -> str:
    return section.body() if section else ""
