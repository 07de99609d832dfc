"""The machine's own Chromium, without a window, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here; tests/support/install_chromium.sh installs it"
)


@dataclass
class Visit:
    """A page, and what happened on it.

    Attributes:
        page: Playwright's page.
        requests: The addresses of all requests, in their order.
        errors: What scripts threw, and what the console calls an error.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def screenshot(self, path: Path) -> None:
        """Writes the whole page as a PNG, however long it is."""
        self.page.screenshot(path=path, full_page=True)


@contextmanager
def visiting(
    *, offline: bool = False, width: int = 1280, height: int = 900, camera: bool = False
) -> Iterator[Visit]:
    """An empty page of a new browser.

    Args:
        offline: Cuts the browser off from every network; files still open.
        width: Of the window, in pixels.
        height: Of the window, in pixels.
        camera: Whether the browser has one, which shows a drawing that moves.
    """
    with sync_playwright() as playwright:
        browser = _start(playwright, camera=camera)
        try:
            context = browser.new_context(
                offline=offline, viewport={"width": width, "height": height}
            )
            page = context.new_page()
            visit = Visit(page)
            page.on("request", lambda request: visit.requests.append(request.url))
            page.on("pageerror", lambda error: visit.errors.append(str(error)))
            page.on("console", lambda message: _note(visit, message))
            yield visit
        finally:
            browser.close()


def _start(playwright: Any, *, camera: bool) -> Browser:
    # Chromium refuses its sandbox to root, as whom CI runs; the pages are our own.
    arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
    if camera:
        arguments += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    browser: Browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
    return browser


def _note(visit: Visit, message: Any) -> None:
    if message.type == "error":
        visit.errors.append(message.text)
