"""singbuild turns a definition file into one file that holds a whole Linux environment.

The names below are what a plugin may use; everything else may change.
"""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from singbuild.contract import (
        API_VERSION,
        About,
        Build,
        Defaults,
        Finished,
        Format,
        Keyword,
        Needs,
        Pins,
        Program,
        RemoteSignature,
        Reporter,
        Source,
        Transport,
        is_yes,
    )
    from singbuild.errors import HostError, ImageError, RecipeKeyError, SingbuildError, SourceError
    from singbuild.file_tree import Entry, Facts, FileTree, PlainInode
    from singbuild.formats.loading import image_digest
    from singbuild.hookspecs import hookimpl
    from singbuild.tree.chroot import confine
    from singbuild.tree.rootfs import Rootfs

__all__ = [
    "API_VERSION",
    "About",
    "Build",
    "Defaults",
    "Entry",
    "Facts",
    "FileTree",
    "Finished",
    "Format",
    "HostError",
    "ImageError",
    "Keyword",
    "Needs",
    "Pins",
    "PlainInode",
    "Program",
    "RecipeKeyError",
    "RemoteSignature",
    "Reporter",
    "Rootfs",
    "SingbuildError",
    "Source",
    "SourceError",
    "Transport",
    "__version__",
    "confine",
    "hookimpl",
    "image_digest",
    "is_yes",
]

# By name where it is not singbuild.contract.
_MODULES = {
    "Entry": "singbuild.file_tree",
    "Facts": "singbuild.file_tree",
    "FileTree": "singbuild.file_tree",
    "PlainInode": "singbuild.file_tree",
    "HostError": "singbuild.errors",
    "ImageError": "singbuild.errors",
    "RecipeKeyError": "singbuild.errors",
    "Rootfs": "singbuild.tree.rootfs",
    "SingbuildError": "singbuild.errors",
    "SourceError": "singbuild.errors",
    "confine": "singbuild.tree.chroot",
    "hookimpl": "singbuild.hookspecs",
    "image_digest": "singbuild.formats.loading",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is asked for (PEP 562): ``Rootfs`` alone takes 30 modules.

    Each start would pay for them, ``singbuild --help`` and the process that renders a
    template included.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULES.get(name, "singbuild.contract")), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    """Name what there is, also before it is imported."""
    return sorted({*globals(), *__all__})
