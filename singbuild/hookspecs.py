"""The hooks of a bootstrap backend, in the order in which a build calls them.

A backend is a module (or object) named by an entry point of the group
``singbuild.bootstrap``; the entry point's name is the recipe's ``Bootstrap:``
word. Only the backend that the recipe names is imported, so an implementation
never asks whether it is meant. An implementation may take fewer arguments than
are listed here, in any order, by name. The contract (version 1) grows by
addition: new arguments and new hooks, never new meanings.

Errors: raise one of ``singbuild.errors``. Anything else is reported as a bug of
the plugin, naming its distribution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from singbuild.contract import Defaults, Needs, Pins, Source
    from singbuild.tree.rootfs import Rootfs

hookspec = pluggy.HookspecMarker("singbuild")
hookimpl = pluggy.HookimplMarker("singbuild")


@hookspec(firstresult=True)
def singbuild_needs() -> Needs:
    """Say which header keywords and host programs this backend has.

    When: first, for every build, and for ``singbuild backends NAME``.
    Assume: nothing; the answer is data and never depends on the recipe.
    Return: ``Needs``. The engine checks keywords, programs and space before it
    creates anything.
    Raise: nothing.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_check(source: Source) -> None:
    """Refuse what cannot be built, as far as recipe and host tell; optional.

    When: before anything else, for ``singbuild plan`` too.
    Assume: as for the next hook, but ``source.cache`` may not exist.
    Return: None.
    Raise: ``RecipeKeyError`` for a keyword's value, ``HostError`` for what the host lacks.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_resolve(source: Source) -> Pins:
    """Pin the inputs: find out exactly what would go into the image, download little.

    When: after the checks, before the scratch exists; also for ``singbuild lock``,
    without privilege. ``singbuild plan`` asks nothing of the network, and does not call it.
    Assume: every keyword in ``source`` is known, every required one is there,
    ``source.cache`` exists and can be written.
    Return: plain values (str, int, bool, list, dict) that name every input exactly:
    digests, package versions, URLs. Equal pins must mean an equal root file
    system. They are written into the lock and handed to the hooks below.
    Raise: ``SourceError`` for a mirror that does not answer or a checksum that
    differs, ``RecipeKeyError`` for a keyword's value that makes no sense.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_configuration(source: Source, pins: Pins) -> Mapping[str, Any]:
    """Say how the pinned image is configured; optional, for backends of container images.

    When: after ``singbuild_resolve``, for a Dockerfile that begins with such an image.
    Assume: ``pins`` are what ``singbuild_resolve`` returned.
    Return: the object ``config`` of the OCI image specification ("config.md"); its values are data.
    Raise: ``SourceError``.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_bootstrap(source: Source, pins: Pins, rootfs: Rootfs) -> bool:
    """Fill the empty root file system.

    When: after the scratch is mounted, before any section of the recipe.
    Assume: ``rootfs`` is empty but for its root directory; host programs named in
    ``Needs`` exist; the process is root, or looks like root in a user namespace;
    mounts made here are private and are taken away afterwards.
    Return: True (pluggy stops at the first answer that is not None).
    Raise: ``SourceError``, ``HostError``; the scratch is thrown away.
    Since: 1.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def singbuild_defaults(source: Source, pins: Pins, rootfs: Rootfs) -> Defaults:
    """Say what the source knows of itself: environment, runscript, labels.

    When: after ``singbuild_bootstrap``; optional.
    Assume: ``rootfs`` is filled.
    Return: ``Defaults``; the recipe's sections override them.
    Raise: ``SourceError``.
    Since: 1.
    """
    raise NotImplementedError
