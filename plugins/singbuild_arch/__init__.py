"""Bootstrap: arch. Arch Linux and its relatives, by the host's pacman.

    resolve     REPOSITORY.db ─▶ the host's pacman solves ─▶ exact packages (pins)
    bootstrap   packages, checked ─▶ signatures, checked ─▶ the host's pacman

All downloading is done here, once and into a cache; pacman sees only directories of this host
and installs what was pinned, whatever mirrors do meanwhile. ``pacstrap`` does no more than mount
what pacman's scripts need, which every build has.
"""

from __future__ import annotations

from singbuild import Keyword, Needs, Pins, Program, Rootfs, Source, hookimpl
from singbuild.download import Remote, fetch_all
from singbuild_arch.choice import choose
from singbuild_arch.pacman import DATABASE, install, solve
from singbuild_arch.repository import open_repository, reopen
from singbuild_arch.signatures import check_signatures

WORK = "singbuild-arch"  # inside the image while it is being filled


@hookimpl
def singbuild_needs() -> Needs:
    """The host's pacman; gpgv checks who signed the packages."""
    return Needs(
        keywords=(
            Keyword(
                "MirrorURL",
                "http(s) or file URL of a mirror, $repo and $arch filled in as pacman does, or a "
                "mirror's name in singbuild.conf; by default its mirror archlinux, or the first "
                "of the host's pacman",
            ),
            Keyword("Repositories", "which of the mirror's", default="core extra"),
            Keyword("Include", "more packages and groups, separated by blanks or commas"),
            Keyword("Keyring", "a file of the keys that sign packages, by default Arch Linux's"),
        ),
        programs=(
            Program("pacman", "pacman-package-manager"),
            Program("gpg", "gnupg"),
            Program("gpgv", "gpgv"),
        ),
        space=500 << 20,
        root=True,
    )


@hookimpl
def singbuild_check(source: Source) -> None:
    """Refuse a recipe without mirror or keys."""
    choose(source)


@hookimpl
def singbuild_resolve(source: Source) -> Pins:
    """Read the repositories' state and list every package that will be installed."""
    choice = choose(source)
    repositories = [open_repository(n, url, source) for n, url in choice.repositories.items()]
    packages = solve(choice, repositories, source)
    return {
        "repositories": {each.name: each.identity for each in repositories},
        "include": list(choice.include),
        "epoch": max(package["built"] for package in packages.values()),
        "packages": packages,
    }


@hookimpl
def singbuild_bootstrap(source: Source, pins: Pins, rootfs: Rootfs) -> bool:
    """Fetch the pinned packages, check who signed them, and let pacman install them."""
    urls = {name: about["url"] for name, about in pins["repositories"].items()}
    packages = pins["packages"]
    remotes = [
        Remote(f"{urls[p['repository']]}/{p['file']}", p["sha256"], p["size"])
        for p in packages.values()
    ]
    label = f"Fetching {len(remotes)} packages"
    fetched = fetch_all(remotes, source.cache, report=source.report, label=label)
    files = {remote.url: file.path for remote, file in zip(remotes, fetched, strict=True)}
    check_signatures(files, choose(source).keyring, source)
    repositories = [reopen(name, about, source) for name, about in pins["repositories"].items()]
    with rootfs.new_directory(WORK) as work:
        install(work, pins, repositories, files.values(), rootfs)
    _settle_dates(rootfs, pins["epoch"])
    return True


def _settle_dates(rootfs: Rootfs, epoch: int) -> None:
    """Set the packages' installation dates to the image's; pacman(8) has no option for it."""
    for path in rootfs.glob(f"{DATABASE}/local/*/desc".removeprefix("/")):
        lines = rootfs.read(path).decode(errors="surrogateescape").split("\n")
        if "%INSTALLDATE%" in lines:
            lines[lines.index("%INSTALLDATE%") + 1] = str(epoch)
            rootfs.write(path, "\n".join(lines).encode(errors="surrogateescape"))
