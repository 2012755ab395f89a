"""Pictures of a hub's pages, as SVG text: a treemap and a badge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import squarify  # type: ignore[import-untyped]  # it has no types
from markupsafe import Markup

from singbuild.console.sizes import binary

WIDTH, HEIGHT = 960, 420
_LETTER = 7.5  # units that a letter takes in a label
_SMALLEST = 0.004  # of all; what is smaller is drawn together


class Area(NamedTuple):
    """A rectangle of a treemap. link: where it leads, "" for nowhere."""

    name: str
    size: int
    link: str = ""


def treemap(areas: Sequence[Area], title: str) -> Markup:
    """Draw sizes as areas of rectangles, the largest first; "" when there is nothing to draw."""
    total = sum(each.size for each in areas)
    large = sorted(
        (each for each in areas if each.size > total * _SMALLEST), key=lambda a: (-a.size, a)
    )
    rest = total - sum(each.size for each in large)
    if rest:
        large.append(Area("all else", rest))
    if not large:
        return Markup("")
    places = squarify.squarify(
        squarify.normalize_sizes([each.size for each in large], WIDTH, HEIGHT), 0, 0, WIDTH, HEIGHT
    )
    drawn = [
        _rectangle(area, *(place[name] for name in ("x", "y", "dx", "dy")))
        for area, place in zip(large, places, strict=True)
    ]
    return Markup(
        '<svg class="treemap" viewBox="0 0 {} {}" role="group" aria-label="{}">{}</svg>'
    ).format(WIDTH, HEIGHT, title, Markup("").join(drawn))


def _rectangle(area: Area, x: float, y: float, width: float, height: float) -> Markup:
    label = f"{area.name}, {binary(area.size)}"
    room = int((width - 12) / _LETTER)
    text = area.name if len(area.name) <= room else f"{area.name[: room - 1]}…" if room > 3 else ""
    words = Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(x + 6, y + 18, text)
    inside = Markup(
        '<title>{}</title><rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>{}'
    ).format(label, x, y, width, height, words if height > 22 and text else "")
    if not area.link:
        return Markup("<g>{}</g>").format(inside)
    return Markup('<a href="{}" aria-label="{}">{}</a>').format(area.link, label, inside)


def badge(built: int, total: int) -> str:
    """Draw a badge that says how many images of a collection are built."""
    colour = "#146c2e" if built == total else "#b3261e"
    text = f"{built} of {total} built"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="170" height="20" role="img" '
        f'aria-label="images: {text}"><rect width="55" height="20" fill="#444"/>'
        f'<rect x="55" width="115" height="20" fill="{colour}"/>'
        '<g fill="#fff" font-family="sans-serif" font-size="12"><text x="7" y="14">images</text>'
        f'<text x="63" y="14">{text}</text></g></svg>\n'
    )
