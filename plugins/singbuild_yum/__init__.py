"""Bootstrap: yum, or dnf. Enterprise Linux, Fedora and their relatives from their repositories.

    resolve     repomd.xml ─▶ indices, keys ─▶ the host's dnf solves ─▶ exact packages (pins)
    bootstrap   packages, checked ─▶ signatures, checked ─▶ local repositories ─▶ the host's dnf

All downloading is done here, once, in parallel and into a cache; dnf sees only
directories of this host and installs what was pinned, whatever mirrors do meanwhile.
"""

from __future__ import annotations

from pathlib import Path

from singbuild import (
    Defaults,
    Keyword,
    Needs,
    Pins,
    Program,
    RecipeKeyError,
    Rootfs,
    Source,
    hookimpl,
)
from singbuild.download import NotFoundError, Remote, fetch, fetch_all, keep, stored
from singbuild_yum.choice import choose
from singbuild_yum.database import check_installed, write_database
from singbuild_yum.dnf import checked_version, install, program
from singbuild_yum.layout import Layout
from singbuild_yum.packages import cached_solution
from singbuild_yum.repository import Repository, inside, open_repository, reopen
from singbuild_yum.signatures import check_signatures

WORK = "singbuild-yum"  # inside the image while it is being filled
KEY_LIMIT = 1 << 20  # bytes
LEFT_BEHIND = ("var/log/dnf*.log*", "var/log/hawkey.log*", "var/cache/dnf/*", "var/lib/dnf/*")


@hookimpl
def singbuild_needs() -> Needs:
    """The host's dnf 4, whatever it is called; rpm's own tools check signatures."""
    return Needs(
        keywords=(
            Keyword("OSVersion", "the release, as 7 or 9", required=True),
            Keyword(
                "MirrorURL",
                "http(s) or file URL of the repository that has repodata, or a mirror's name in "
                "singbuild.conf; %{OSVERSION} and %{BASEARCH} are filled in, $releasever and "
                "$basearch too",
                required=True,
            ),
            Keyword("UpdateURL", "the repository of its updates, likewise"),
            Keyword("Repositories", "further ones, as epel=URL extras=URL"),
            Keyword("Include", "more packages, files and @groups, separated by blanks or commas"),
            Keyword("Excludes", "packages that must not be installed, patterns too"),
            Keyword(
                "GPGKey",
                "paths or https URLs of the keys that sign the packages; by http only as "
                "URL#sha256=DIGITS",
            ),
            Keyword("GPGCheck", "no: install without a look at signatures", default="yes"),
            Keyword("SetOpt", "options of dnf, as install_weak_deps=0 tsflags=nodocs"),
            Keyword("Releasever", "what $releasever stands for, if it is not OSVersion"),
        ),
        programs=(
            Program(program(), "dnf"),
            Program("rpmkeys", "rpm"),
            Program("unshare", "util-linux"),
        ),
        space=500 << 20,
        root=True,
    )


@hookimpl
def singbuild_check(source: Source) -> None:
    """Refuse a recipe without keys; of a key without a digest a lock may know one."""
    choose(source, keys_are_known=True)


@hookimpl
def singbuild_resolve(source: Source) -> Pins:
    """Read the repositories' state and list every package that will be installed."""
    choice = choose(source)
    version = checked_version()
    keys = {key.url: _fetch_key(key, source) for key in choice.keys}
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
        "packages": cached_solution(choice, repositories, source, version),
    }


@hookimpl
def singbuild_bootstrap(source: Source, pins: Pins, rootfs: Rootfs) -> bool:
    """Fetch the pinned packages, check who signed them, and let dnf install them."""
    repositories = [reopen(name, about, source) for name, about in pins["repositories"].items()]
    files = _fetch(pins, repositories, source)
    keys = [stored(source.cache, sha256, KEY_LIMIT) for sha256 in pins["keys"].values()]
    with rootfs.new_directory(WORK) as work:
        layout = Layout(work, own_database="rpm" in _names(pins))
        layout.write(repositories, pins, files, keys)
        if pins["gpgcheck"]:
            check_signatures(layout, pins["packages"])
        install(layout, pins, rootfs)
        check_installed(layout, pins, rootfs)
        if layout.own_database:
            write_database(layout, pins, rootfs)
    _tidy(rootfs)
    return True


@hookimpl
def singbuild_defaults(pins: Pins) -> Defaults:
    """Tell the image's users when nobody looked at signatures."""
    return Defaults(labels={} if pins["gpgcheck"] else {"GPGCheck": "no"})


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


def _tidy(rootfs: Rootfs) -> None:
    """Leave nothing of the host's dnf in the image: logs, caches, its history with times in it."""
    for pattern in LEFT_BEHIND:
        for path in rootfs.glob(pattern):
            rootfs.remove_tree(path)
