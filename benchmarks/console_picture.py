"""Draw docs/console.png and docs/console-fleet.png: the console of a running fleet, with the sample ranked by every
tier, and what it shows of the fleet.

Run: `make serve`, then in another terminal `python -m benchmarks.console_picture --url http://127.0.0.1:8000`. Needs
Playwright (the extra `dev`) and Chromium. Prints when the page was first painted, too.
"""

import argparse
import shutil
from pathlib import Path

from benchmarks.paths import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Chromium talks to nobody but the page's host.
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
SIZE = {"width": 1280, "height": 1790}  # down to where the time went
FLEET_SIZE = {"width": 1280, "height": 1010}
SETTLE_MS = 500


def draw(url: str, out: Path, scheme: str) -> None:
    """Write the picture. Raises Playwright's errors where the fleet does not answer."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport=SIZE, color_scheme=scheme)
        page.goto(f"{url}/console")
        offers = page.locator(".offers button")
        offers.first.wait_for()
        with page.expect_response("**/v1/rerank"):  # by `auto`, with the budget of the plan next to the best one
            offers.nth(max(0, offers.count() - 2)).click()
        page.wait_for_timeout(SETTLE_MS)
        page.locator('button[data-column="auto"]').nth(1).click()
        page.locator("document-detail").evaluate("element => element.hidden = true")
        page.mouse.move(0, 0)
        page.screenshot(path=out)
        painted_ms = page.evaluate("performance.getEntriesByType('paint')[0].startTime")
        print(f"{out}: first painted after {painted_ms:.0f} ms")
        page.set_viewport_size(FLEET_SIZE)
        page.get_by_role("link", name="Fleet", exact=True).click()
        page.locator("decision-list tbody tr").first.wait_for()
        page.wait_for_timeout(SETTLE_MS)
        page.screenshot(path=out.with_stem(f"{out.stem}-fleet"))
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of a running fleet")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/console.png")
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    arguments = parser.parse_args()
    draw(arguments.url, arguments.out, arguments.scheme)
