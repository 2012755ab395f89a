"""Serves a site for a look and for small groups: read-only, by waitress and WhiteNoise.

Clients of TRS ask for directories; those have their answer in ``index.json``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from singbuild.errors import HostError
from singbuild.hub.site import Site

THREADS = 8
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
Answer = Iterable[bytes]


def serve(site: Site, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until a signal ends it. port: 0 for any; ready: gets the URL.

    Raises HostError when the libraries or the port cannot be had.
    """
    try:
        import waitress  # type: ignore[import-untyped]  # it has no types
        from whitenoise import WhiteNoise  # type: ignore[import-untyped]  # nor has it
    except ImportError as error:
        raise HostError(
            "serving needs two more libraries",
            why=str(error),
            remedy=f"Install them: {sys.prefix}/bin/python -m pip install waitress whitenoise",
        ) from error

    def add_headers(headers: Any, _path: str, _url: str) -> None:
        for name, value in _HEADERS.items():
            headers[name] = value

    # By default it lets browsers keep a page for a minute: max_age.
    files = WhiteNoise(
        _not_found,
        root=str(site.path),
        autorefresh=True,  # pages may be written meanwhile
        index_file=True,
        max_age=0,
        add_headers_function=add_headers,
        allow_all_origins=False,
    )

    def application(environment: dict[str, Any], start: Any) -> Answer:
        path = environment.get("PATH_INFO", "/")
        if path.startswith("/ga4gh/") and not path.endswith("/index.json"):
            environment = {**environment, "PATH_INFO": path.rstrip("/") + "/index.json"}
        answer: Answer = files(environment, start)
        return answer

    try:
        server = waitress.create_server(application, host=host, port=port, threads=THREADS)
    except (OSError, ValueError) as error:  # ValueError: no such host
        raise HostError(
            f"{host}:{port} cannot be listened on",
            why=getattr(error, "strerror", "") or str(error),
            remedy="Choose another --host or --port.",
        ) from error
    ready(f"http://{server.effective_host}:{server.effective_port}/")
    try:
        server.run()
    finally:
        server.close()


def _not_found(_environment: dict[str, Any], start: Any) -> Answer:
    start("404 Not Found", [("Content-Type", "text/plain"), *_HEADERS.items()])
    return [b"not found\n"]
