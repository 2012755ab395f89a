"""Writes what an image says of itself: ``/.singularity.d`` and the 2.x names.

``docs/image-format.md`` is the contract; nothing else knows these paths.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence

from singbuild.contract import Defaults
from singbuild.errors import ImageError
from singbuild.recipe.grammar import Recipe, Section
from singbuild.tree import chroot
from singbuild.tree.rootfs import Rootfs

HOME = "/.singularity.d"

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

_SOURCE = """#!/bin/sh
for script in /.singularity.d/env/*.sh; do
    [ -f "$script" ] && . "$script"
done
unset script
"""
ACTIONS = {
    "exec": _SOURCE
    + """case ${1-} in
    */*) [ -e "$1" ] ;;
    *) command -v "$1" >/dev/null ;;
esac || {
    printf 'There is no command %s in the image\\n' "${1-}" >&2
    exit 127
}
exec "$@"
""",
    "run": _SOURCE
    + """if [ -x /.singularity.d/runscript ]; then
    exec /.singularity.d/runscript "$@"
fi
echo "No Singularity runscript found, executing /bin/sh" >&2
exec /bin/sh "$@"
""",
    "shell": _SOURCE
    + """for shell in "$SINGULARITY_SHELL" "$SHELL" /bin/bash /bin/sh; do
    if [ -n "$shell" ] && [ -x "$shell" ]; then
        export SHELL="$shell"
        case "${shell##*/}" in
            bash) exec "$shell" --norc --noprofile "$@" ;;
            *) exec "$shell" "$@" ;;
        esac
    fi
done
echo "No shell found in this container" >&2
exit 127
""",
    "test": _SOURCE
    + """if [ -x /.singularity.d/test ]; then
    exec /.singularity.d/test "$@"
fi
echo "No test code provided in this container" >&2
""",
}
BASE = f'export PATH="{chroot.PATH}"\n'


def write(rootfs: Rootfs, recipe: Recipe, defaults: Defaults, texts: Mapping[str, str]) -> None:
    """Write everything that the format asks for; what the recipe leaves out is left out.

    Metadata that the tree already has, because it comes from an image, stays where the
    recipe says nothing. texts: further files of /.singularity.d, name to text.
    """
    with _same_times(rootfs, ("/", "/etc", "/var")):
        _write(rootfs, recipe, defaults, texts)


@contextlib.contextmanager
def _same_times(rootfs: Rootfs, directories: Sequence[str]) -> Iterator[None]:
    """Keep the times of directories that get entries of ours: nobody else changed them."""
    paths = [path for path in map(rootfs.path, directories) if path.is_dir()]
    times = [path.stat().st_mtime_ns for path in paths]
    yield
    for path, time in zip(paths, times, strict=True):
        os.utime(path, ns=(time, time))


def _write(rootfs: Rootfs, recipe: Recipe, defaults: Defaults, texts: Mapping[str, str]) -> None:
    for directory in DIRECTORIES:
        rootfs.mkdir(directory)
    rootfs.mkdir("/root", 0o700)
    for directory in ("/tmp", "/var/tmp"):  # noqa: S108 (inside the image)
        rootfs.mkdir(directory, 0o1777)
    for name in MOUNTED_FILES:
        if rootfs.status(f"/etc/{name}", follow=False) is None:
            rootfs.write(f"/etc/{name}", "")
    for name, text in ACTIONS.items():
        rootfs.write(f"{HOME}/actions/{name}", text, 0o755)
    rootfs.write(f"{HOME}/env/01-base.sh", BASE)
    for name, text in (
        ("10-source.sh", exports(defaults.environment)),
        ("90-environment.sh", _body(recipe.sections.get("environment"))),
    ):
        if text or not rootfs.exists(f"{HOME}/env/{name}"):
            rootfs.write(f"{HOME}/env/{name}", text)
    if runscript := _program(recipe.sections.get("runscript")) or defaults.runscript:
        rootfs.write(f"{HOME}/runscript", runscript, 0o755)
    if test := _program(recipe.sections.get("test"), "/bin/sh -e"):
        rootfs.write(f"{HOME}/test", test, 0o755)
    if text := _body(recipe.sections.get("help")):
        rootfs.write(f"{HOME}/runscript.help", text)
    labels = (
        _labels(rootfs) | dict(defaults.labels) | {each.key: each.value for each in recipe.labels}
    )
    rootfs.write(f"{HOME}/labels.json", json.dumps(labels, indent=4, sort_keys=True) + "\n")
    if recipe.text.strip() or not rootfs.exists(f"{HOME}/Singularity"):
        rootfs.write(f"{HOME}/Singularity", recipe.text)
    for name, text in texts.items():
        rootfs.write(f"{HOME}/{name}", text)
    rootfs.write(f"{HOME}/manifest", "")  # the seal fills it
    for link, target in LINKS.items():
        rootfs.symlink(link, f".singularity.d/{target}")


def _labels(rootfs: Rootfs) -> dict[str, str]:
    """Return the labels that the tree has already; none where they cannot be read."""
    try:
        found = json.loads(rootfs.read(f"{HOME}/labels.json"))
    except (ValueError, OSError, ImageError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def exports(variables: Mapping[str, str]) -> str:
    """Return shell text that exports the variables; values are data, never evaluated."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def _program(section: Section | None, interpreter: str = "/bin/sh") -> str:
    """Return a section as an executable file; "" when it says nothing."""
    return section.executable(interpreter) if section and section.body().strip() else ""


def _body(section: Section | None) -> str:
    return section.body() if section else ""
