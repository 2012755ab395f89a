"""The lists of an image's files, as HTML: many thousand entries, for which templates are slow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from markupsafe import Markup, escape

from singbuild.console.events import printable
from singbuild.console.sizes import binary
from singbuild.hub.file_pages import Node, Page

_HARMLESS = re.compile(r"[\w .,+@:=~/-]*", re.ASCII)
_KINDS = {"l": "link", "o": "special"}


def listing(page: Page) -> Markup:
    """Return a page's entries as a list, the directories that it shows whole as lists in it."""
    return Markup("".join(_entries(page.top, page.children)))  # noqa: S704 - see _text


def _entries(above: Node, nodes: Sequence[Node]) -> Iterator[str]:
    yield "<ul>"
    for node in nodes:
        name = _text(node.name)
        if node.kind == "d":
            share = f'<i class="share{node.tenths(above)}"></i>{binary(node.size)}</small>'
            if node.page:
                yield f"<li><small>{node.count} entries {share}"
                yield f'<a class="path" href="{node.page}">{name}/</a></li>'
                continue
            yield f'<li><details id="{node.anchor}"><summary><small>{share}'
            yield f'<span class="path">{name}/</span></summary>'
            yield from _entries(node, node.children or ())
            yield "</details></li>"
        else:
            what = binary(node.size) if node.kind == "f" else _KINDS[node.kind]
            target = f" → {_text(node.target)}" if node.target else ""
            yield f"<li><small><b>{node.mode}</b> {what}</small>"
            yield f'<span class="path">{name}{target}</span></li>'
    yield "</ul>"


def _text(name: str) -> str:
    """Return a name as HTML. Only this comes from outside."""
    return name if _HARMLESS.fullmatch(name) else str(escape(printable(name)))
