"""One place of an image, and how to speak to it: scheme, credentials, sessions."""

from __future__ import annotations

import threading
from pathlib import Path

import requests

from singbuild import Reporter
from singbuild.download import Fetched, fetch, is_offline
from singbuild_docker import manifest
from singbuild_docker.authorization import PULL, Authorization
from singbuild_docker.connection import Connector
from singbuild_docker.mirrors import Place

ACCEPT = ", ".join((*manifest.INDEXES, *manifest.MANIFESTS))


class Site:
    """A place, shared by all threads. actions: what shall be done there, as a token names it."""

    def __init__(self, place: Place, actions: str = PULL) -> None:
        self.place = place
        self._actions = actions
        self._connector = Connector(place.image.server, insecure=place.insecure)
        self._lock = threading.Lock()
        self._auth: Authorization | None = None
        self._base = ""

    def fetch(self, path: str, into: Path, sha256: str, limit: int, report: Reporter) -> Fetched:
        """Fetch what lies below the repository there. Raises what download.fetch does."""
        url = f"{self.connect(report)}/{path}"
        with self.session() as session:
            return fetch(url, into, report=report, sha256=sha256, size_limit=limit, session=session)

    def connect(self, report: Reporter) -> str:
        """Return where the repository is; find out how to speak to it, once."""
        with self._lock:
            if not self._base:
                scheme = "https" if is_offline() else self._connector.choose_scheme()
                image = self.place.image
                self._base = f"{scheme}://{image.server}/v2/{image.repository}"
                self._auth = Authorization(
                    self.place, self._base, self._connector.open(), report, self._actions
                )
        return self._base

    def session(self) -> requests.Session:
        """Return a session that sends our credentials; call ``connect`` before."""
        session = self._connector.open()
        session.headers["Accept"] = ACCEPT
        session.auth = self._auth
        return session
