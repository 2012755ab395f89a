"""The hooks of a backend that installs RPMs, whichever tool solves and installs."""

from __future__ import annotations

from collections.abc import Sequence

from singbuild import Defaults, Keyword, Needs, Pins, Program, Rootfs, Source, hookimpl
from singbuild_yum import installation
from singbuild_yum.choice import choose
from singbuild_yum.installation import Tool

KEYWORDS = (
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
        "paths or https URLs of the keys that sign the packages; by http only as URL#sha256=DIGITS",
    ),
    Keyword("GPG", "the same, by Apptainer's name"),
    Keyword("GPGCheck", "no: install without a look at signatures", default="yes"),
    Keyword("SetOpt", "options of dnf, as install_weak_deps=0 tsflags=nodocs"),
    Keyword("Releasever", "what $releasever stands for, if it is not OSVersion"),
)


class RpmBackend:
    """A backend by one tool. without: names of the KEYWORDS that the tool has nothing for."""

    def __init__(self, tool: Tool, without: Sequence[str] = ()) -> None:
        self._tool, self._without = tool, without

    @hookimpl
    def singbuild_needs(self) -> Needs:
        """The host's tool, whatever it is called; rpm's own programs check signatures."""
        return Needs(
            keywords=tuple(each for each in KEYWORDS if each.name not in self._without),
            programs=(
                self._tool.program(),
                Program("rpmkeys", "rpm"),
                Program("unshare", "util-linux"),
            ),
            space=500 << 20,
            root=True,
        )

    @hookimpl
    def singbuild_check(self, source: Source) -> None:
        """Refuse a recipe without keys; a digest that one of them needs may be in the lock."""
        choose(source, keys_are_known=True)

    @hookimpl
    def singbuild_resolve(self, source: Source) -> Pins:
        """Read the repositories' state and list every package that will be installed."""
        return installation.resolve(source, self._tool)

    @hookimpl
    def singbuild_bootstrap(self, source: Source, pins: Pins, rootfs: Rootfs) -> bool:
        """Fetch the pinned packages, check who signed them, and let the tool install them."""
        installation.fill(source, pins, rootfs, self._tool)
        return True

    @hookimpl
    def singbuild_defaults(self, pins: Pins) -> Defaults:
        """Tell the image's users when nobody looked at signatures."""
        return Defaults(labels={} if pins["gpgcheck"] else {"GPGCheck": "no"})
