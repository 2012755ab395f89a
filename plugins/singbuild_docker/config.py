"""What an image's configuration says becomes environment, runscript and labels.

Source: OCI image specification, "config.md". Every value is data: it is quoted, never evaluated.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from singbuild import Defaults, Reporter

RECORDED = {"User": "singbuild.docker.user", "WorkingDir": "singbuild.docker.workdir"}
_EXEC = "/.singularity.d/actions/exec"
OURS = (
    [_EXEC],
    [_EXEC, "/.singularity.d/entrypoint"],
    ["/.singularity.d/actions/run"],  # of an earlier version
)
LATEST = 2**33  # the year 2242: a later date is none
_NO_COMMAND = "The image names no command, executing /bin/sh"
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")


def defaults(config: Mapping[str, Any], report: Reporter, *, with_cmd: bool) -> Defaults:
    """Return what a configuration says of its image. with_cmd: CMD counts too."""
    config_object = settings(config)
    command = _words(config_object.get("Cmd")) if with_cmd else []
    entrypoint = _words(config_object.get("Entrypoint"))
    return Defaults(
        environment=_environment(_words(config_object.get("Env")), report),
        # An image of ours that went through a registry brings its runscript with it.
        runscript="" if entrypoint in OURS else runscript(entrypoint, command),
        labels=_labels(config_object, report),
    )


def settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a container runtime is told of an image."""
    value = config.get("config")
    return value if isinstance(value, dict) else {}


def runscript(entrypoint: Sequence[str], command: Sequence[str]) -> str:
    """Return a script that does what `docker run IMAGE ARGUMENTS` does.

    The arguments stand in the place of CMD, behind ENTRYPOINT; without both, they are the command.
    """
    lines = ["#!/bin/sh"]
    if not entrypoint and not command:
        lines += [
            "if [ $# -eq 0 ]; then",
            f'    echo "{_NO_COMMAND}" >&2',
            "    set -- /bin/sh",
            "fi",
        ]
    if command:
        lines += ["if [ $# -eq 0 ]; then", f"    set -- {shlex.join(command)}", "fi"]
    lines.append(f'exec {shlex.join(entrypoint)} "$@"' if entrypoint else 'exec "$@"')
    return "\n".join(lines) + "\n"


def created(config: Mapping[str, Any]) -> int | None:
    """Return when the image was made, in seconds since 1970, if it says so (RFC 3339)."""
    try:
        time = datetime.fromisoformat(str(config.get("created")))
        seconds = int(time.timestamp())
    except (ValueError, OverflowError):
        return None
    return seconds if 0 < seconds < LATEST and time.tzinfo else None


def _environment(lines: Sequence[str], report: Reporter) -> dict[str, str]:
    variables = dict(line.split("=", 1) for line in lines if "=" in line)
    for name in [name for name in variables if not _NAME.fullmatch(name)]:
        report.warn(f"the image's variable {name!r} is left out: a shell cannot have that name")
        del variables[name]
    return variables


def _labels(options: Mapping[str, Any], report: Reporter) -> dict[str, str]:
    """Return the image's labels, and what has no other place: USER and WORKDIR."""
    value = options.get("Labels")
    labels = {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}
    for key, label in RECORDED.items():
        if isinstance(options.get(key), str) and options[key]:
            labels[label] = options[key]
    if user := labels.get(RECORDED["User"]):
        report.line(f"The image names the user {user}; programs in it run as whoever starts them.")
    return labels


def _words(value: object) -> list[str]:
    """Return a list of strings; anything else counts as none."""
    words = value if isinstance(value, list) else []
    # A zero byte ends a string in C; neither an argument nor a variable can have one.
    return [word for word in words if isinstance(word, str) and "\0" not in word]
