"""Bootstrap: docker, docker-daemon, docker-archive, oci, oci-archive. Container images.

    source    the header names a place ─▶ the image there, pinned by digests
    layers    its layers, read while they arrive ─▶ inflated and verified ─▶ the tree
    config    its configuration ─▶ environment, runscript, labels

Five backends by one name each; ``Source.bootstrap`` says which one a recipe means. What a hook
needs it imports itself: this package is imported for the transports, too, and a push needs nothing
that brings an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from singbuild import Defaults, Keyword, Needs, Pins, Source, hookimpl, is_yes

if TYPE_CHECKING:
    from singbuild import Rootfs


@hookimpl
def singbuild_needs() -> Needs:
    """From is all that a recipe must say; no host program is needed."""
    return Needs(
        keywords=(
            Keyword(
                "From",
                "the image: a name as ubuntu:22.04 or name@sha256:…; for the backends of "
                "archives and layouts PATH or PATH:TAG",
                required=True,
            ),
            Keyword("Registry", "HOST or HOST:PORT of the registry when From names none"),
            Keyword("Namespace", "put before a name that has no slash"),
            Keyword("IncludeCmd", "whether CMD is part of the runscript", default="yes"),
            Keyword(
                "Insecure", "take plain http and any certificate from the registry", default="no"
            ),
        ),
        space=64 << 20,
        foreign=True,
    )


@hookimpl
def singbuild_check(source: Source) -> None:
    """Refuse names that no image can have."""
    from singbuild_docker.source import check

    is_yes(source.keywords, "IncludeCmd")
    check(source)


@hookimpl
def singbuild_resolve(source: Source) -> Pins:
    """Read manifest and configuration; no layer is fetched."""
    from singbuild_docker.source import locate, pinned

    return pinned(locate(source).image_for(source.arch), source.arch)


@hookimpl
def singbuild_configuration(source: Source, pins: Pins) -> Mapping[str, Any]:
    """Return what the pinned configuration says."""
    from singbuild_docker import config
    from singbuild_docker.source import config_of

    return config.settings(config_of(pins, source))


@hookimpl
def singbuild_bootstrap(source: Source, pins: Pins, rootfs: Rootfs) -> bool:
    """Apply the pinned layers, the lowest first, while they arrive."""
    from singbuild_docker.layers import archives
    from singbuild_docker.source import layers_of, locate

    layers = layers_of(pins)
    with locate(source).opened(layers) as read, archives(layers, read) as unpacked:
        rootfs.unpack(unpacked, whiteouts=True)
    return True


@hookimpl
def singbuild_defaults(source: Source, pins: Pins, rootfs: Rootfs) -> Defaults:
    """Turn ENV, ENTRYPOINT, CMD, LABEL, USER and WORKDIR into what an image has for them."""
    from singbuild_docker import config
    from singbuild_docker.source import config_of

    with_cmd = is_yes(source.keywords, "IncludeCmd")
    whole = config_of(pins, source) if source.config is None else {"config": source.config}
    return config.defaults(whole, rootfs.report, with_cmd=with_cmd)
