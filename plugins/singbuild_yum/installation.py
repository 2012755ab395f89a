"""From repositories of RPMs to a tree, by whichever tool solves and installs.

All downloading is done here, once, in parallel and into a cache; the tool sees only
directories of this host and installs what was pinned, whatever mirrors do meanwhile. Keys are
fetched and pinned here too; ``signatures`` checks packages with them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from singbuild import Pins, Program, RecipeKeyError, Rootfs, Source, command
from singbuild.download import NotFoundError, Remote, fetch, fetch_all, keep, stored
from singbuild_yum.choice import choose
from singbuild_yum.database import check_installed, write_database
from singbuild_yum.layout import Layout
from singbuild_yum.packages import Row, cached_solution
from singbuild_yum.repository import Repository, inside, open_repository, reopen
from singbuild_yum.signatures import check_signatures

WORK = "singbuild-yum"  # inside the image while it is being filled
KEY_LIMIT = 1 << 20  # bytes


class Tool(Protocol):
    """What solves and installs: dnf, zypper."""

    @property
    def LEFT_BEHIND(self) -> Sequence[str]:  # noqa: N802 - a module's constant
        """Patterns of what it leaves in an image, with the host's state and times in it."""

    def program(self) -> Program:
        """Return the host's program, whether it is there or not."""

    def checked_version(self) -> str:
        """Return what it says of its version. Raises HostError for one that will not do."""

    def solve(
        self, layout: Layout, choice: Mapping[str, Any], root: Path, packages: Iterable[str]
    ) -> list[Row]:
        """Return what it would install. packages: names, to guess what was meant."""

    def install(self, layout: Layout, pins: Mapping[str, Any], rootfs: Rootfs) -> None:
        """Install the pinned packages, their scriptlets in a furnished image."""


def resolve(source: Source, tool: Tool) -> Pins:
    """Read the repositories' state and list every package that will be installed."""
    choice = choose(source)
    version = tool.checked_version()
    keys = {key.url: _fetch_key(key, source) for key in choice.keys}
    for key in choice.keys:
        if not key.sha256 and key.url not in source.locked.get("keys", {}):
            _tell_of_first_use(key.url, keys[key.url], source)
    repositories = [open_repository(n, url, source) for n, url in choice.repositories.items()]
    return {
        "repositories": {each.name: each.identity for each in repositories},
        "releasever": choice.releasever,
        "basearch": choice.basearch,
        "include": list(choice.include),
        "excludes": list(choice.excludes),
        "setopt": list(choice.options),
        "gpgcheck": choice.gpgcheck,
        "keys": keys,
        "epoch": max(each.epoch for each in repositories),
        "packages": cached_solution(choice, repositories, source, version, tool.solve),
    }


def fill(source: Source, pins: Pins, rootfs: Rootfs, tool: Tool) -> None:
    """Fetch the pinned packages, check who signed them, and let the tool install them."""
    repositories = [reopen(name, about, source) for name, about in pins["repositories"].items()]
    files = _fetch(pins, repositories, source)
    keys = [stored(source.cache, sha256, KEY_LIMIT) for sha256 in pins["keys"].values()]
    with rootfs.new_directory(WORK) as work:
        layout = Layout(work, own_database="rpm" in _names(pins))
        layout.write(repositories, pins, files, keys)
        if pins["gpgcheck"]:
            check_signatures(layout, pins["packages"])
        tool.install(layout, pins, rootfs)
        check_installed(layout, pins, rootfs)
        if layout.own_database:
            write_database(layout, pins, rootfs)
    for pattern in tool.LEFT_BEHIND:
        for path in rootfs.glob(pattern):
            rootfs.remove_tree(path)


def _fetch_key(key: Remote, source: Source) -> str:
    """Put a key into the cache, wherever it is from; return its digest."""
    try:
        file = fetch(
            key.url,
            source.cache,
            report=source.report,
            sha256=key.sha256,
            size_limit=KEY_LIMIT,
        )
    except NotFoundError as error:
        raise RecipeKeyError("GPGKey", f"GPGKey: {error.what}", why=error.why) from error
    return keep(file.read(), source.cache, source.report).sha256


def _tell_of_first_use(url: str, sha256: str, source: Source) -> None:
    """Say whose key is trusted from now on, where neither recipe nor lock pins it.

    A key from a server is warned of.
    """
    whose = "; ".join(_fingerprints(source.cache / sha256)) or f"SHA-256 {sha256}"
    if "://" in url and not url.startswith("file:"):
        source.report.warn(
            f"GPGKey: {url} is trusted from this first use on: {whose}\n"
            "Compare that with what the distribution publishes. `singbuild lock` pins the key, and "
            f"so does writing {url}#sha256={sha256}"
        )
    else:
        source.report.line(f"GPGKey: {url}: {whose}")


def _fingerprints(key: Path) -> list[str]:
    """Return the keys of a file, each with its owner's name; none where gpg cannot tell."""
    if command.which("gpg") is None:
        return []
    lines: list[str] = []
    # In the user's home gpg would make ~/.gnupg, and do what its gpg.conf says.
    with tempfile.TemporaryDirectory() as home:
        argv: list[command.Word] = ["gpg", "--homedir", home, "--batch", "--with-colons"]
        command.call([*argv, "--show-keys", key], on_line=lines.append)
    keys: list[dict[str, str]] = []
    for row in (line.split(":") for line in lines):  # GnuPG's doc/DETAILS
        if row[0] == "pub":
            keys.append({})
        elif row[0] in ("fpr", "uid") and keys and len(row) > 9:
            keys[-1].setdefault(row[0], row[9])
    return [" ".join(facts.values()) for facts in keys]


def _names(pins: Pins) -> set[str]:
    return {package["name"] for package in pins["packages"].values()}


def _fetch(pins: Pins, repositories: list[Repository], source: Source) -> dict[str, Path]:
    """Return each package's file, by what it is pinned as."""
    urls = {each.name: each.url for each in repositories}
    packages = pins["packages"]
    remotes = [
        Remote(f"{urls[p['repository']]}/{inside(p['file'])}", p["sha256"], p["size"])
        for p in packages.values()
    ]
    label = f"Fetching {len(remotes)} packages"
    files = fetch_all(remotes, source.cache, report=source.report, label=label)
    return dict(zip(packages, (fetched.path for fetched in files), strict=True))
