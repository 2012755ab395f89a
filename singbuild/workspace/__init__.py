"""The one owner of paths outside the image: scratch directory, part file, log, cache.

What a build keeps on disk while it works is held by flock(2). The lock goes with its process,
even by SIGKILL, so the next build can tell left-overs from work in progress, and sweeps them.
"""

from singbuild.workspace.directories import (
    cache_directory,
    log_directory,
    make_in_cache,
    scratch_parent,
    whole_cache,
)
from singbuild.workspace.log import KEPT_LOGS, Log, log_file
from singbuild.workspace.part import (
    Part,
    copy_data,
    opened_directory,
    part_file,
    rename_into_place,
    resolved,
    sweep_parts,
)
from singbuild.workspace.part_directory import part_directory
from singbuild.workspace.scratch import PREFIX, remove_tree, scratch_directory, sweep_scratch

__all__ = [
    "KEPT_LOGS",
    "PREFIX",
    "Log",
    "Part",
    "cache_directory",
    "copy_data",
    "log_directory",
    "log_file",
    "make_in_cache",
    "opened_directory",
    "part_directory",
    "part_file",
    "remove_tree",
    "rename_into_place",
    "resolved",
    "scratch_directory",
    "scratch_parent",
    "sweep_parts",
    "sweep_scratch",
    "whole_cache",
]
