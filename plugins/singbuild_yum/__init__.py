"""Bootstrap: yum, or dnf. Enterprise Linux, Fedora and their relatives from their repositories.

    resolve     repomd.xml ─▶ indices, keys ─▶ the host's dnf solves ─▶ exact packages (pins)
    bootstrap   packages, checked ─▶ signatures, checked ─▶ local repositories ─▶ the host's dnf

All downloading is done here, once, in parallel and into a cache; dnf sees only
directories of this host and installs what was pinned, whatever mirrors do meanwhile.
"""

from __future__ import annotations

from singbuild import Defaults, Keyword, Needs, Pins, Program, Rootfs, Source, hookimpl
from singbuild_yum import dnf, installation
from singbuild_yum.choice import choose


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
            Keyword("GPG", "the same, by Apptainer's name"),
            Keyword("GPGCheck", "no: install without a look at signatures", default="yes"),
            Keyword("SetOpt", "options of dnf, as install_weak_deps=0 tsflags=nodocs"),
            Keyword("Releasever", "what $releasever stands for, if it is not OSVersion"),
        ),
        programs=(
            Program(dnf.program(), "dnf"),
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
    return installation.resolve(source, dnf)


@hookimpl
def singbuild_bootstrap(source: Source, pins: Pins, rootfs: Rootfs) -> bool:
    """Fetch the pinned packages, check who signed them, and let dnf install them."""
    installation.fill(source, pins, rootfs, dnf)
    return True


@hookimpl
def singbuild_defaults(pins: Pins) -> Defaults:
    """Tell the image's users when nobody looked at signatures."""
    return Defaults(labels={} if pins["gpgcheck"] else {"GPGCheck": "no"})
