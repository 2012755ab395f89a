"""Debian's Chromium, driven by Playwright, which lies in an environment of its own.

axe-core, which judges how well pages can be used by people with disabilities, is in the package
axe-playwright-python.
"""

from __future__ import annotations

import shutil
import site
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, resources
from pathlib import Path
from typing import Any

PACKAGES = ("playwright", "axe-playwright-python")
WIDTHS = {360: 740, 1440: 900}
"""Widths of a phone and of a screen, each with its height, in CSS pixels."""
_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")


def chromium_program() -> str | None:
    """Return the path of Chromium, None without one."""
    return shutil.which("chromium")


@contextmanager
def browser(programs: Path) -> Iterator[Any]:
    """Yield a browser. programs: the directory ``bin`` of the environment with PACKAGES."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site.addsitedir(str(programs.parent / "lib" / version / "site-packages"))
    with import_module("playwright.sync_api").sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium_program(), args=[*_OPTIONS], timeout=120_000
        )
        try:
            yield started
        finally:
            started.close()


def axe_script() -> str:
    """Return axe-core."""
    return resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()


class Visit:
    """A tab with what went wrong in it. base: the site's URL, which no request may leave."""

    def __init__(self, browser: Any, base: str, width: int = 1440, **more: Any) -> None:
        self.base = base
        size = {"width": width, "height": WIDTHS[width]}
        self.context = browser.new_context(viewport=size, **more)
        self.context.set_default_timeout(60_000)
        self.tab = self.context.new_page()
        self.faults: list[str] = []
        self.tab.on("console", lambda message: self.faults.append(f"console: {message.text}"))
        self.tab.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.tab.on("request", self._requested)
        self.tab.on("requestfailed", self._failed)

    def _requested(self, request: Any) -> None:
        if not request.url.startswith((self.base, "blob:", "data:")):
            self.faults.append(f"left the site: {request.url}")

    def _failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # by leaving the page
            self.faults.append(f"failed: {request.url} {request.failure}")

    def go(self, place: str) -> Any:
        """Go to a page of the site; return the tab."""
        self.tab.goto(self.base + place)
        return self.tab

    def violations(self, axe: str) -> list[str]:
        """Return what axe-core finds in the tab, a line for each place."""
        self.tab.evaluate(axe)
        violations = self.tab.evaluate("axe.run({resultTypes: ['violations'], preload: false})")
        return [
            f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
            for each in violations["violations"]
            for node in each["nodes"]
        ]

    def close(self) -> None:
        """Close the tab."""
        self.context.close()
