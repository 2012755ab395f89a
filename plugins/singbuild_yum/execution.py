"""Executes a tool that solves and installs RPMs, as far as dnf and zypper are alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from singbuild import Rootfs, command, confine
from singbuild_yum.layout import Layout


def solve(argv: Sequence[command.Word], layout: Layout) -> tuple[int, list[str]]:
    """Execute a tool that is told to install nothing; return its status and its lines."""
    lines: list[str] = []
    env = command.environment(_variables(layout))
    return confine(argv, layout.where, env=env, on_line=lines.append).status, lines


def install(
    argv: Sequence[command.Word], layout: Layout, rootfs: Rootfs, show: Callable[[str], None]
) -> tuple[int, list[str]]:
    """Execute a tool that installs into a tree, scriptlets in a furnished image.

    show: gets each line of its output. Returns its status and its lines.
    """
    # rpm passes over these (layout.py, _netsharedpath); the modes are the package filesystem's.
    for directory, mode in (("/proc", 0o555), ("/sys", 0o555), ("/dev", 0o755)):
        rootfs.mkdir(directory, mode)
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        show(line)

    with rootfs.furnished():
        status = rootfs.host(argv, env=_variables(layout), on_line=on_line, check=False).status
    if not status:
        # Both end with 0 when a scriptlet other than %pre fails.
        for line in lines:
            if "scriptlet failed" in line:
                rootfs.report.warn(line.strip())
    return status, lines


def _variables(layout: Layout) -> dict[str, str]:
    return {"HOME": str(layout.home)}  # where rpm finds its macros
