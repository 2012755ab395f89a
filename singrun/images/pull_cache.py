"""Where images of registries are kept: in singbuild's cache, found as singbuild finds it."""

import os
import pwd

from singrun.errors import RunError


def cache() -> str:
    """Return singbuild's cache directory. RunError: there is none."""
    if given := os.environ.get("SINGBUILD_CACHEDIR"):
        return os.path.abspath(given)
    if given := os.environ.get("APPTAINER_CACHEDIR") or os.environ.get("SINGULARITY_CACHEDIR"):
        return os.path.abspath(f"{given}/singbuild")
    base = os.environ.get("XDG_CACHE_HOME", "")
    base = base if base.startswith("/") else os.path.expanduser("~/.cache")
    if base.startswith("~"):
        why = "HOME is not set, and you have no entry in the passwd database."
        raise RunError("There is no cache for images", why=why, remedy="Set SINGBUILD_CACHEDIR.")
    there = base
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if os.geteuid() == 0 and os.stat(there).st_uid not in (0, 65534):  # sudo -E; 65534: unmapped
        base = pwd.getpwuid(0).pw_dir + "/.cache"
    return f"{base}/singbuild"
