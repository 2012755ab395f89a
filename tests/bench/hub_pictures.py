"""Pictures of a hub's pages, taken by Chromium of a site of simulated images.

make hub-pictures      writes docs/pictures/hub-*.png
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from singbuild.hub.site import Site
from tests.bench import hub_sites
from tests.bench.browser import PACKAGES, Visit, browser
from tests.long.clients.site import venv

# Name, page, width, colours, height of the picture.
PICTURES = (
    ("collection", "lab/tools/index.html", 1440, "light", 1500),
    ("image", "lab/tools/python/index.html", 1440, "light", 1700),
    ("compare", "compare.html#lab/tools:base..lab/tools:git", 1440, "dark", 900),
    ("phone", "lab/tools/python/index.html", 360, "dark", 1600),
)


def draw(directory: Path) -> None:
    """Write all pictures below ``directory``."""
    with tempfile.TemporaryDirectory() as place, browser(venv("browser", PACKAGES)) as chromium:
        site = Site(Path(place) / "site")
        site.open()
        hub_sites.laboratory(site, "https://hub.lab.example")
        for name, page, width, colours, height in PICTURES:
            visit = Visit(chromium, f"file://{site.path}/", width, color_scheme=colours)
            tab = visit.go(page)
            tab.wait_for_load_state("networkidle")
            if "#" in page:
                tab.get_by_text("of file contents are in common").wait_for()
            tab.set_viewport_size({"width": width, "height": height})
            tab.screenshot(path=directory / f"hub-{name}.png")
            visit.close()


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
