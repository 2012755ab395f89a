"""Where images of registries are kept: in singbuild's cache, found as singbuild finds it."""

import os
import pwd

from singrun.config import entries, expanded
from singrun.errors import RunError

DIRECTORY = "pulled"  # in singbuild's cache


def cache() -> str:
    """Return singbuild's cache directory. RunError: there is none."""
    if place := os.environ.get("SINGBUILD_CACHEDIR"):
        return os.path.abspath(place)
    if place := os.environ.get("APPTAINER_CACHEDIR") or os.environ.get("SINGULARITY_CACHEDIR"):
        return os.path.abspath(f"{place}/singbuild")
    return _configured() or f"{_below_home('XDG_CACHE_HOME', '.cache')}/singbuild"


def _configured() -> str:
    """Return what singbuild's configuration files say, the user's first; "" for nothing."""
    own = f"{_below_home('XDG_CONFIG_HOME', '.config')}/singbuild/singbuild.conf"
    for path in (own, os.environ.get("SINGBUILD_CONFIG") or "/etc/singbuild.conf"):
        directory = ""
        for _, name, value in entries(path) or ():
            if name == "cache directory" and value:
                directory = expanded(value, os.environ)
        if directory:
            return directory
    return ""


def _below_home(variable: str, name: str) -> str:
    """Return a directory as the XDG base directory specification has it; root's own for root."""
    base = os.environ.get(variable, "")
    base = base if base.startswith("/") else os.path.expanduser(f"~/{name}")
    if base.startswith("~"):
        why = "HOME is not set, and you have no entry in the passwd database."
        raise RunError("There is no cache for images", why=why, remedy="Set SINGBUILD_CACHEDIR.")
    there = base
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if os.geteuid() == 0 and os.stat(there).st_uid not in (0, 65534):  # sudo -E; 65534: unmapped
        return f"{pwd.getpwuid(0).pw_dir}/{name}"
    return base
