"""Writes single pages of a site, from the templates; knows which of them are up to date."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from singbuild.console.events import printable
from singbuild.console.sizes import binary
from singbuild.hub import feeds
from singbuild.hub.site import Site


class Writer:
    """Writes pages of one site. url: of the site, "" where it is not known."""

    def __init__(self, site: Site, url: str) -> None:
        self.site, self.url = site, url
        self._templates = _templates()

    def page(
        self,
        place: str,
        template: str,
        trail: Sequence[tuple[str, str]],
        state: str = "",
        **values: Any,
    ) -> None:
        """Write one page. trail: what stands above it, each with a link; the last is itself.

        state: of what it shows, which ``is_current`` can be asked about.
        """
        text = self._templates.get_template(template).render(
            root="../" * place.count("/"),
            trail=trail,
            state=state,
            url=self.url,
            host=self.url.partition("://")[2],
            **values,
        )
        self.site.write(place, text)

    def parts(
        self,
        place: str,
        template: str,
        trail: Sequence[tuple[str, str]],
        rows: Sequence[Any],
        most: int,
        **values: Any,
    ) -> None:
        """Write a list as pages with ``most`` rows each: PLACE.html, PLACE-2.html and so on.

        The template gets its ``rows``, its name as ``page``, and ``others``: all names, [] for one.
        """
        names = [f"-{n // most + 1}.html" if n else ".html" for n in range(0, len(rows) or 1, most)]
        directory, _, stem = f"/{place}".rpartition("/")
        pages = [f"{stem}{name}" for name in names]
        for number, page in enumerate(pages):
            values |= {"rows": rows[number * most :][:most], "page": page}
            values["others"] = pages if pages[1:] else []
            self.page(f"{directory}/{page}"[1:], template, trail, **values)
        for path in (self.site.path / directory[1:]).glob(f"{stem}-*.html"):
            if path.name not in pages and path.is_file():  # a tag may be called so
                path.unlink()

    def state(self, *facts: object) -> str:
        """Return a digest of what a page shows, of the templates too."""
        text = json.dumps([_digest_of_templates(), self.url, *facts])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def is_current(self, place: str, state: str) -> bool:
        """Whether a page is there, and was written with the same state."""
        try:
            with (self.site.path / place).open("rb") as file:
                return f'content="singbuild hub {state}"'.encode() in file.read(1000)
        except FileNotFoundError:
            return False


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("singbuild.hub"),
        autoescape=True,
        finalize=_without_controls,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"binary": binary, "day": feeds.day, "moment": feeds.moment}
    return environment


@functools.cache
def _digest_of_templates() -> str:
    total = hashlib.sha256()
    for each in sorted(resources.files("singbuild.hub").joinpath("templates").iterdir(), key=str):
        total.update(each.read_bytes())
    return total.hexdigest()


def _without_controls(value: Any) -> Any:
    """Return text without what has no place in a page: escape codes, control characters."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)
