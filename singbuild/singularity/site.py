"""What is said of this installation, and of verbs that it does not have."""

from __future__ import annotations

import os
from pathlib import Path

import click

from singbuild import __version__, workspace
from singbuild.errors import SingbuildError

_OWN_KEYS = (
    "Keys are gpg's (--gen-key, --list-keys, --import, --export, --recv-keys), or files in PEM; "
    "sign and verify take both."
)
_BY_HAND = "The site's file, /etc/singrun.conf, is edited by hand: singrun config show."
ABSENT = {
    "capability": "Nobody is lent a capability: root's launches have --add-caps and --drop-caps.",
    "check": "Other programs look for weaknesses in what singbuild inspect --sbom lists.",
    "checkpoint": "No checkpoints are made: neither singrun nor singbuild has anything like it.",
    "confgen": _BY_HAND,
    "config": _BY_HAND,
    "data": "A squashfs or an ext3 is a data container: --bind FILE:/data:image-src=/.",
    "delete": "Pushed images are deleted by the registry's own means, those of a hub by prune.",
    "key": _OWN_KEYS,
    "keyserver": _OWN_KEYS,
    "oci": "Run the image itself, or give it to podman: singbuild export --format oci.",
    "plugin": "Plugins are Python distributions, installed with pip: singbuild new-backend.",
    "search": "The pages of a hub, which singbuild hub writes, have a search.",
    "selftest": "The host is looked at by singrun doctor and by singbuild doctor.",
    "tag": "An image has another tag once it is pushed by that, too: push IMAGE oras://HOST/NAME:TAG.",
}
"""By verb of 3.x, why there is none and what does the same."""


@click.command("buildcfg")
@click.argument("wish", metavar="[NAME]", default="")
def buildcfg(wish: str) -> int:
    """Print how this installation was made, lines of NAME=VALUE; of NAME the value alone."""
    root = Path(__file__).parents[2]
    values = {
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
    }
    if wish and wish not in values:
        raise SingbuildError(f"there is no {wish} of this installation", remedy="See: buildcfg")
    for name, value in values.items():
        if wish in ("", name):
            print(value if wish else f"{name}={value}")
    return 0
