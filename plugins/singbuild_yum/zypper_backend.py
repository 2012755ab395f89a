"""Bootstrap: zypper. SUSE's distributions from their repositories, as yum has others."""

from __future__ import annotations

import singbuild_yum
from singbuild import Defaults, Needs, Pins, Program, Rootfs, Source, hookimpl
from singbuild_yum import installation, zypper
from singbuild_yum.choice import choose

NOT_HERE = ("Excludes", "SetOpt", "Releasever")


@hookimpl
def singbuild_needs() -> Needs:
    """The host's zypper; rpm's own tools check signatures."""
    of_yum = singbuild_yum.singbuild_needs()
    keywords = tuple(keyword for keyword in of_yum.keywords if keyword.name not in NOT_HERE)
    programs = (
        Program("zypper", "zypper"),
        *(program for program in of_yum.programs if program.package != "dnf"),
    )
    return Needs(keywords=keywords, programs=programs, space=of_yum.space, root=of_yum.root)


@hookimpl
def singbuild_check(source: Source) -> None:
    """Refuse a recipe without keys; of a key without a digest a lock may know one."""
    choose(source, keys_are_known=True)


@hookimpl
def singbuild_resolve(source: Source) -> Pins:
    """Read the repositories' state and list every package that will be installed."""
    return installation.resolve(source, zypper)


@hookimpl
def singbuild_bootstrap(source: Source, pins: Pins, rootfs: Rootfs) -> bool:
    """Fetch the pinned packages, check who signed them, and let zypper install them."""
    installation.fill(source, pins, rootfs, zypper)
    return True


@hookimpl
def singbuild_defaults(pins: Pins) -> Defaults:
    """Tell the image's users when nobody looked at signatures."""
    return singbuild_yum.singbuild_defaults(pins)
