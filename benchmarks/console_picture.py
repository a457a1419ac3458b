"""Draw docs/console.png: the console of a running fleet, with the sample ranked by every tier.

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
BUDGET_MS = 140  # where the picture was taken, between the times of two tiers


def draw(url: str, out: Path, budget_ms: float, scheme: str) -> None:
    """Write the picture. Raises Playwright's errors where the fleet does not answer."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport=SIZE, color_scheme=scheme)
        page.goto(f"{url}/console")
        page.locator(".column ol").nth(1).wait_for()
        page.get_by_label("Budget in milliseconds").fill(str(budget_ms))
        page.get_by_role("button", name="Rank with every tier").click()
        page.get_by_text("Ranking…").first.wait_for(state="hidden")
        page.locator(".rungs").wait_for()
        page.locator('button[data-column="auto"]').nth(1).click()
        page.locator("document-detail").evaluate("element => element.hidden = true")
        page.mouse.move(0, 0)
        page.screenshot(path=out)
        painted_ms = page.evaluate("performance.getEntriesByType('paint')[0].startTime")
        print(f"{out}: first painted after {painted_ms:.0f} ms")
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of a running fleet")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/console.png")
    parser.add_argument("--budget-ms", type=float, default=BUDGET_MS)
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    arguments = parser.parse_args()
    draw(arguments.url, arguments.out, arguments.budget_ms, arguments.scheme)
