"""Checks what rpm says is installed, and lets the image's own rpm write it down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from singbuild import HostError, ImageError, Rootfs
from singbuild_yum.layout import Layout

FORM = r"%{NAME}-%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}.%{ARCH}\n"
KEYS = "gpg-pubkey-"


def check_installed(layout: Layout, pins: Mapping[str, Any], rootfs: Rootfs) -> None:
    """Refuse a tree that has other packages than the pinned ones. Raises HostError."""
    lines: list[str] = []
    argv = ["rpm", "--root", str(rootfs.root), "--dbpath", layout.database]
    rootfs.host([*argv, "-qa", "--qf", FORM], on_line=lines.append)
    _compare(lines, pins)


def write_database(layout: Layout, pins: Mapping[str, Any], rootfs: Rootfs) -> None:
    """Let the image's rpm register the packages, in the form and place that it knows.

    The host's may be another by years: rpm of EL 8 and before cannot read what today's writes.
    Raises HostError, ImageError.
    """
    home = next(iter(_query(rootfs, "--eval", "%{_dbpath}")), "")
    if not home.startswith("/"):
        raise ImageError(
            "the image's rpm names no directory of its database",
            why=f"`rpm --eval %{{_dbpath}}` prints {home!r}.",
            remedy="Include what has rpm's macros.",
        )
    rootfs.mkdir(home)
    for key in layout.keys:
        _query(rootfs, "--import", _inside(layout, str(key)))
    files = [_inside(layout, str(layout.package(pin))) for pin in pins["packages"].values()]
    # Files and scripts are done, and signatures were checked where that was asked for: only the
    # database is left to write.
    rootfs.run(["rpm", "-i", "--justdb", "--nodeps", "--noscripts", "--notriggers", "--nosignature",
                "--ignoresize", "--replacefiles", *files])  # fmt: skip
    _compare(_query(rootfs, "-qa", "--qf", FORM), pins)


def _query(rootfs: Rootfs, *words: str) -> list[str]:
    lines: list[str] = []
    rootfs.run(["rpm", *words], on_line=lines.append)
    return lines


def _inside(layout: Layout, path: str) -> str:
    return path.removeprefix(str(layout.where.parent))


def _compare(lines: list[str], pins: Mapping[str, Any]) -> None:
    packages = {line for line in lines if not line.startswith(KEYS)}
    if packages != pins["packages"].keys():
        raise HostError(
            "rpm's database does not have the packages that were pinned",
            why=f"differing: {', '.join(sorted(packages ^ pins['packages'].keys()))}",
            remedy="Build again; if it stays so, report it with the log.",
        )
