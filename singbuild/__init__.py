"""singbuild turns a definition file into one file that holds a whole Linux environment.

The names below are what a plugin may use; everything else may change.
"""

__version__ = "0.1.0"

from singbuild.contract import (
    API_VERSION,
    Build,
    Defaults,
    Finished,
    Keyword,
    Needs,
    Pins,
    Program,
    Reporter,
    Source,
)
from singbuild.errors import HostError, RecipeKeyError, SingbuildError, SourceError
from singbuild.hookspecs import hookimpl
from singbuild.tree.rootfs import Rootfs

__all__ = [
    "API_VERSION",
    "Build",
    "Defaults",
    "Finished",
    "HostError",
    "Keyword",
    "Needs",
    "Pins",
    "Program",
    "RecipeKeyError",
    "Reporter",
    "Rootfs",
    "SingbuildError",
    "Source",
    "SourceError",
    "__version__",
    "hookimpl",
]
