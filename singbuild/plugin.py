"""One plugin: imported, checked against its hook specifications, called.

An exception that is none of ours is the plugin's bug: it becomes a BackendError that names the
plugin and its distribution.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pluggy

from singbuild import entry_points
from singbuild.entry_points import Installed
from singbuild.errors import BackendError, SingbuildError, UsageError


@dataclass(frozen=True)
class Plugin:
    """An imported plugin. kind: what messages call it; hooks: its pluggy hooks."""

    kind: str
    installed: Installed
    hooks: Any

    def has(self, hook: str) -> bool:
        """Whether the plugin implements a hook."""
        return bool(getattr(self.hooks, hook).get_hookimpls())

    def call(self, hook: str, **arguments: object) -> object:
        """Call a hook and return its answer. Raises what it raises of ours, OSError, BackendError.

        An OSError is the host's doing: a disk that is full is no bug of the plugin.
        """
        with blame(self.kind, self.installed, f"failed in {hook}", SingbuildError, OSError):
            answer: object = getattr(self.hooks, hook)(**arguments)
            return answer


def load(
    kind: str, origin: Installed, specifications: ModuleType, required: Sequence[str] = ()
) -> Plugin:
    """Import a plugin and check its hooks. Raises BackendError, naming the plugin.

    required: hooks that it has to implement.
    """
    manager = pluggy.PluginManager("singbuild")
    manager.add_hookspecs(specifications)
    with blame(kind, origin, "cannot be loaded"):
        manager.register(entry_points.imported(origin, kind), origin.name)
        manager.check_pending()
        plugin = Plugin(kind, origin, manager.hook)
        missing = [name for name in required if not plugin.has(name)]
        if missing:
            raise TypeError(f"it has no {' and no '.join(missing)} marked with @hookimpl")
        return plugin


@contextlib.contextmanager
def blame(
    kind: str, plugin: Installed, event: str, *innocent: type[BaseException]
) -> Iterator[None]:
    """Turn an exception of the with-block into a BackendError, but for those that are innocent."""
    try:
        yield
    except (Exception, SystemExit) as error:
        # UsageError: of SINGBUILD_PLUGIN_TIMEOUT.
        if isinstance(error, (BackendError, UsageError, *innocent)):
            raise
        raise BackendError(
            f"{kind} {plugin.name!r} {event}: {type(error).__name__}: {error}",
            remedy=f"It comes from {plugin.distribution} {plugin.version}; report it there.",
        ) from error
