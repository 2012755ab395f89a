"""What is said of this installation, and of verbs that it does not have."""

from __future__ import annotations

import os
from pathlib import Path

import click

from singbuild import __version__, workspace

_NO_SIGNATURES = "Signatures in images are neither made nor checked."
_NO_LIBRARY = "The library of Sylabs is not spoken to."
ABSENT = {
    "capability": "Programs never get more than their caller has; no capability is lent.",
    "checkpoint": "No checkpoints are made.",
    "config": "The site's file is edited by hand: /etc/singrun.conf; singrun doctor tells of it.",
    "delete": _NO_LIBRARY,
    "key": _NO_SIGNATURES,
    "keyserver": _NO_SIGNATURES,
    "oci": "Run the image itself, or give it to podman: singbuild export --format oci.",
    "plugin": "Plugins are Python distributions, installed with pip: singbuild new-backend.",
    "search": _NO_LIBRARY,
    "sif": "singularity inspect shows what an image holds, singbuild export gives it out.",
    "sign": _NO_SIGNATURES,
    "verify": f"{_NO_SIGNATURES} singbuild verify compares an image with its own digest.",
}
"""By verb of 3.x, why there is none and what does the same."""


@click.command("buildcfg")
def buildcfg() -> int:
    """Print how this installation was made, lines of NAME=VALUE."""
    root = Path(__file__).parents[2]
    for name, value in {
        "PACKAGE_NAME": "singbuild",
        "PACKAGE_VERSION": __version__,
        "LIBEXECDIR": root,
        "SYSCONFDIR": "/etc",
        "SINGULARITY_CONF_FILE": "/etc/singrun.conf",
        "APPTAINER_CONF_FILE": "/etc/singrun.conf",
        "SESSIONDIR": f"/tmp/singrun-{os.geteuid()}",  # noqa: S108  named, not used
        "CACHEDIR": workspace.cache_directory(),
        "SINGULARITY_SUID_INSTALL": 0,
        "APPTAINER_SUID_INSTALL": 0,
    }.items():
        print(f"{name}={value}")
    return 0
