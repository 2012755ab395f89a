"""Finds transports by a URI's scheme, and calls their hooks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from singbuild import entry_points, workspace
from singbuild.contract import RemoteSignature, Reporter, Source, Transport
from singbuild.entry_points import Installed
from singbuild.errors import UsageError
from singbuild.plugin import Plugin, blame
from singbuild.plugin import load as load_plugin
from singbuild.transports import hookspecs

if TYPE_CHECKING:
    from singbuild.download import Fetched

GROUP = "singbuild.transport"
Signer = Callable[[str, Mapping[str, Any]], str]
"""Signs an image and statements about it: hookspecs.singbuild_signer."""


@dataclass(frozen=True)
class Place:
    """One image's place. scheme: of its URI; name: the rest; arch: the machine it is for."""

    scheme: str
    name: str
    arch: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.name}"

    def source(self, carrier: Carrier, report: Reporter) -> Source:
        """Return what a transport is handed. Raises HostError."""
        directory = workspace.cache_directory() / carrier.package
        workspace.make_in_cache(directory)
        keywords = {"From": self.name}
        arch = self.arch or os.uname().machine
        return Source(keywords, arch, directory, report, bootstrap=self.scheme)


def place(uri: str, arch: str = "") -> Place:
    """Take a URI apart. Raises UsageError."""
    scheme, colon, name = uri.partition("://")
    if not (colon and scheme and name):
        raise UsageError(
            f"{uri} names no place of an image",
            remedy=f"Say SCHEME://NAME; there are {', '.join(schemes())}.",
        )
    return Place(scheme, name, arch)


def schemes() -> list[str]:
    """Return the schemes of all transports that are installed."""
    return sorted({each.name for each in entry_points.installed(GROUP)})


@dataclass(frozen=True)
class Carrier:
    """A loaded transport. transport: what its plugin says of it."""

    plugin: Plugin
    transport: Transport

    @property
    def package(self) -> str:
        """The name of its Python package."""
        return self.plugin.installed.entry.module.partition(".")[0]

    def get(self, place: Place, report: Reporter) -> Fetched:
        """Bring an image's file. Raises SourceError."""
        source = place.source(self, report)
        return cast("Fetched", self._call("singbuild_get", "be pulled from", source=source))

    def digest(self, place: Place, report: Reporter) -> str:
        """Return the digest of what is there, "" for nothing. Raises SourceError."""
        return str(
            self._call("singbuild_digest", "be looked up in", source=place.source(self, report))
        )

    def put(
        self,
        image: Path,
        kind: str,
        place: Place,
        annotations: Mapping[str, str],
        title: str,
        report: Reporter,
    ) -> str:
        """Send an image; return its digest there. Raises SourceError."""
        return str(
            self._call(
                "singbuild_put",
                "be pushed to",
                image=image,
                kind=kind,
                source=place.source(self, report),
                annotations=annotations,
                title=title,
            )
        )

    @property
    def can_attach(self) -> bool:
        """Whether documents go with an image."""
        return self.plugin.has("singbuild_attach")

    def attach(self, place: Place, digest: str, kind: str, content: bytes, report: Reporter) -> str:
        """Send a document about an image; return its digest. Raises SourceError."""
        source = place.source(self, report)
        what = {"source": source, "digest": digest, "kind": kind, "content": content}
        return str(self._call("singbuild_attach", "be attached to", **what))

    def signer(self, place: Place, key: Path, report: Reporter) -> Signer:
        """Return what signs an image once it is there. SourceError, HostError."""
        what = {"source": place.source(self, report), "key": key}
        return cast("Signer", self._call("singbuild_signer", "be signed at", **what))

    def signatures(self, place: Place, report: Reporter) -> tuple[str, Sequence[RemoteSignature]]:
        """Bring an image's digest there, and the signatures of it. Raises SourceError."""
        source = place.source(self, report)
        answer = self._call("singbuild_signatures", "say who signed what is at", source=source)
        return cast("tuple[str, Sequence[RemoteSignature]]", answer)

    def login(self, server: str, username: str, password: str, report: Reporter) -> str:
        """Try a password and keep it; return where. Raises SourceError, HostError."""
        who = {"server": server, "username": username, "password": password, "report": report}
        return str(self._call("singbuild_login", "log in at", **who))

    def logins(self, report: Reporter) -> Mapping[str, bool]:
        """Return the servers with a password, and whether each is asked by TLS alone."""
        answer = self._call("singbuild_logins", "tell who you are at", report=report)
        return cast("Mapping[str, bool]", answer)

    def logout(self, server: str) -> str:
        """Forget a password; return where it was, "" if nowhere. Raises HostError."""
        return str(self._call("singbuild_logout", "log out of", server=server))

    def _call(self, hook: str, what: str, **arguments: object) -> object:
        if not self.plugin.has(hook):
            raise UsageError(
                f"nothing can {what} {self.plugin.installed.name}://",
                why=f"It is: {self.transport.help}.",
            )
        return self.plugin.call(hook, **arguments)


def find(scheme: str) -> Carrier:
    """Return the transport for a scheme. Raises BackendError: none, two, or a broken one."""
    remedy = "singbuild pull --help says what there is."
    plugins = entry_points.installed(GROUP)
    return load(entry_points.only("transport", scheme, plugins, remedy))


@cache
def load(each: Installed) -> Carrier:
    """Import a transport and check it against the hook specifications. Raises BackendError."""
    plugin = load_plugin("transport", each, hookspecs, ["singbuild_transport"])
    with blame("transport", each, "cannot be loaded"):
        transport = plugin.hooks.singbuild_transport()
        if not isinstance(transport, Transport):
            raise TypeError(f"singbuild_transport returned {transport!r}, not a Transport")
    return Carrier(plugin, transport)
