"""Pictures of a hub's pages, as SVG text: a treemap and a badge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import squarify  # type: ignore[import-untyped]  # it has no types
from markupsafe import Markup

from singbuild.console.sizes import binary

HUES = 8
"""Colours of a treemap, which the style sheet has."""
# A phone gets a drawing of its own: one that is scaled down would have letters of 4 pixels.
_NARROW = (340, 420)
_HEIGHT = 400
_LETTER = 7.4  # units that a letter takes in a label
_SMALLEST = 0.004  # of all; what is smaller is drawn together


class Area(NamedTuple):
    """A rectangle of a treemap. link: where it leads, "" for nowhere; hue: below HUES."""

    name: str
    size: int
    link: str = ""
    hue: int = 0


def treemap(areas: Sequence[Area], title: str, width: int) -> Markup:
    """Draw sizes as areas of rectangles, the largest first; "" when there is nothing to draw.

    width: where there is room for it; there is a narrow drawing as well.
    """
    total = sum(each.size for each in areas)
    large = sorted(
        (each for each in areas if each.size > total * _SMALLEST), key=lambda a: (-a.size, a)
    )
    rest = total - sum(each.size for each in large)
    if rest:
        large.append(Area("all else", rest, hue=HUES - 1))
    if not large:
        return Markup("")
    shapes = {"wide-shape": (width, _HEIGHT), "narrow": _NARROW}
    return Markup("").join(_drawing(large, title, name, *size) for name, size in shapes.items())


def _drawing(areas: Sequence[Area], title: str, shape: str, width: int, height: int) -> Markup:
    sizes = squarify.normalize_sizes([each.size for each in areas], width, height)
    places = squarify.squarify(sizes, 0, 0, width, height)
    drawn = [
        _rectangle(area, *(place[name] for name in ("x", "y", "dx", "dy")))
        for area, place in zip(areas, places, strict=True)
    ]
    return Markup(
        '<svg class="treemap {}" viewBox="0 0 {} {}" role="group" aria-label="{}">{}</svg>'
    ).format(shape, width, height, title, Markup("").join(drawn))


def _rectangle(area: Area, x: float, y: float, width: float, height: float) -> Markup:
    size = binary(area.size)
    words = Markup("")
    if height > 24 and (text := _shortened(area.name, int((width - 14) / _LETTER))):
        words = Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(x + 7, y + 18, text)
        if height > 42 and len(size) * _LETTER < width - 14:
            words += Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(x + 7, y + 34, size)
    inside = Markup(
        '<title>{}</title><rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="3"/>{}'
    ).format(f"{area.name}, {size}", x, y, width, height, words)
    if not area.link:
        return Markup('<g class="hue{}">{}</g>').format(area.hue, inside)
    return Markup('<a class="hue{}" href="{}" aria-label="{}">{}</a>').format(
        area.hue, area.link, f"{area.name}, {size}", inside
    )


def _shortened(name: str, room: int) -> str:
    """Return as much of the end of a path as there is room for; "" when that says nothing."""
    last = name.rstrip("/").rpartition("/")[2]
    if len(name) <= room:
        return name
    if len(last) + 2 <= room:
        return f"…/{last}"
    return f"{last[: room - 1]}…" if room > 3 else ""


def badge(built: int, total: int) -> str:
    """Draw a badge that says how many images of a collection are built."""
    colour = "#146c2e" if built == total else "#b3261e"
    text = f"{built} of {total} built"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="170" height="20" role="img" '
        f'aria-label="images: {text}"><rect width="170" height="20" rx="3" fill="#444"/>'
        f'<path d="M55 0h112a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3H55z" fill="{colour}"/>'
        '<g fill="#fff" font-family="sans-serif" font-size="12"><text x="7" y="14">images</text>'
        f'<text x="63" y="14">{text}</text></g></svg>\n'
    )
