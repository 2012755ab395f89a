"""Checks a site: its links, the digests of its images, and that its records have what they name."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from singbuild import command
from singbuild.errors import ImageError
from singbuild.hub.site import Site
from singbuild.hub.surroundings import environment


def faults(site: Site) -> Iterator[str]:
    """Yield what is wrong with a site, a sentence each."""
    pruned = site.pruned()
    for path in sorted((site.path / "records").glob("*.json")):
        if "." not in path.stem:  # else KEY.spdx.json and the like
            yield from _of_record(site, path.stem, pruned)
    root = site.path.resolve()
    for page in sorted(site.path.rglob("*.html")):
        for fault in _of_page(root, page):
            yield f"{page.relative_to(site.path)} {fault}"


def _of_record(site: Site, key: str, pruned: set[str]) -> Iterator[str]:
    try:
        record = site.record(key)
        if record.get("status") != "built":
            return
        if key in pruned and not site.image(key).exists():
            return
        with site.image(key).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != record["image"]["sha256"]:
            yield f"images/{key}.sif is not what records/{key}.json says: its SHA-256 is {digest}"
        if site.signers(key):
            yield from _of_signature(site, key)
        if len(site.files(key)) != record["files"]:
            yield f"records/{key}.files.json.gz does not have {record['files']} files"
    except FileNotFoundError as error:
        yield f"{Path(error.filename).relative_to(site.path)} is missing"
    except (ImageError, KeyError, EOFError, OSError, ValueError) as error:
        yield f"records/{key}: {str(error).splitlines()[0]}"


def _of_signature(site: Site, key: str) -> Iterator[str]:
    image = site.image(key)
    words = [sys.executable, "-m", "singbuild", "verify", "--json", "--", str(image)]
    done = command.call(words, env=environment())
    if done.status:
        yield f"images/{image.name}.sig is no signature of its image (status {done.status})"


class _Links(HTMLParser):
    """Collects what a page links to, and the names that links to it may have behind a #."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, _tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Take up one element."""
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name == "id" and value:
                self.names.add(value)


def _of_page(root: Path, page: Path) -> Iterator[str]:
    """Yield what is wrong with a page, without its path."""
    parser = _Links()
    parser.feed(page.read_text(errors="replace"))
    for link in dict.fromkeys(parser.links):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        if not parts.path:
            if parts.fragment not in parser.names:
                yield f"links to #{parts.fragment}, which is not there"
            continue
        target = (page.parent / unquote(parts.path)).resolve()
        if not target.is_relative_to(root):
            yield f"links to {link}, outside the site"
        elif not target.exists():
            yield f"links to {link}, which is not there"
