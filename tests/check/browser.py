"""Headless Chromium for tests of the console."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from benchmarks.console_picture import ARGUMENTS, CHROMIUM

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")

TIMEOUT_MS = 15_000
sync_api.expect.set_options(timeout=TIMEOUT_MS)


@contextmanager
def chromium() -> Iterator[Any]:
    """A Playwright `Browser`. Skips the test where there is no Chromium."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Watched:
    """A page and what it did: messages on its console, errors, and hosts that it sent requests to."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        """url: of the router. options: of the browser's context."""
        self.url = url
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(TIMEOUT_MS)
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"a dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.requested.append(request.url))

    def open(self, address: str = "") -> Any:
        """The page, once it has an answer for the sample, or for the request in `address`."""
        self.page.goto(f"{self.url}/console{address}")
        return self.page

    def close(self) -> None:
        """Fails if the page sent a request to another host, or complained of anything but errors of the API."""
        self.context.close()
        elsewhere = [url for url in self.requested if not url.startswith((f"{self.url}/", "blob:", "data:"))]
        complaints = [text for text in self.complaints if "Failed to load resource" not in text]
        assert not elsewhere, elsewhere
        assert not complaints, complaints
