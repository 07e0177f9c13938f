"""Takes pictures of the console's panels, light and dark, wide and narrow, into .screenshots/, and one for README."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page

from scripts import command
from scripts.serving import FUNCTIONS, serving
from shared.errors import ConfigurationError
from tests.browser.chromium import INSTALL_CHROMIUM, is_installed, open_browser

ROOT = command.ROOT
SIZES = {"1280": (1280, 860), "390": (390, 844)}
THEMES = ("light", "dark")
README_HEIGHT = 740
README_PICTURE = ROOT / "docs" / "images" / "console.png"


def main() -> int:
    arguments = parse_arguments()
    if not is_installed():
        raise ConfigurationError(f"Chromium is missing: {INSTALL_CHROMIUM}")
    with ExitStack() as stack:
        url = arguments.url
        if url is None:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tonnetz-screenshots-")))
            # If root runs this, the user of the embedded database has to enter the folder.
            scratch.chmod(0o711)
            url = stack.enter_context(serving_samples(scratch))
        browser = stack.enter_context(open_browser())
        shoot_for_readme(browser, url)
        if not arguments.readme:
            shoot(browser, url, arguments.folder)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = command.parser(__doc__)
    parser.prog = "python -m tests.browser.screenshots"
    parser.add_argument("--url", help="use the server at this URL (default: start one with the sample rows)")
    parser.add_argument("--readme", action="store_true", help="only the picture of README, docs/images/console.png")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / ".screenshots", help="where to put them (default: .screenshots)"
    )
    return parser.parse_args()


@contextmanager
def serving_samples(scratch: Path) -> Iterator[str]:
    """Run a server with a new embedded database of embedded sample rows; yields its URL."""
    environment = {**os.environ, "TONNETZ_DATA_DIR": str(scratch / "data"), "PYTHONPATH": str(ROOT)}
    for name in ("DATABASE_URL", "SUPABASE_URL", "FUNCTIONS_API_KEY"):
        environment.pop(name, None)
    demo = [sys.executable, str(ROOT / "scripts/demo.py")]
    subprocess.run(demo, cwd=scratch, env=environment, check=True, stdout=subprocess.DEVNULL)
    with serving(FUNCTIONS, "/ready", folder=scratch, environment=environment, log=scratch / "log") as (url, _):
        yield url


def shoot(browser: Browser, url: str, folder: Path) -> None:
    """Take every picture of a server's console."""
    folder.mkdir(parents=True, exist_ok=True)
    for size, (width, height) in SIZES.items():
        for theme in THEMES:
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme="dark" if theme == "dark" else "light",
                device_scale_factor=2 if width < 500 else 1,
            )
            for name in PANELS:
                path = folder / f"{name}-{theme}-{size}.png"
                open_panel(page, url, name)
                page.screenshot(path=path, full_page=True)
                print(path)
            page.close()


def shoot_for_readme(browser: Browser, url: str) -> None:
    """Take the picture of README: the first hits of a search, with the details of the best hit's score."""
    page = browser.new_page(viewport={"width": 1280, "height": README_HEIGHT}, color_scheme="light")
    open_panel(page, url, "search")
    page.screenshot(path=README_PICTURE)
    print(README_PICTURE)
    page.close()


def open_panel(page: Page, url: str, name: str) -> None:
    page.goto(f"{url}/#/{name.partition('-')[0]}")
    page.reload()
    PANELS[name](page)
    # Scroll to the top, so that the sticky header is at the top of a picture of the whole page.
    page.evaluate("scrollTo(0, 0)")
    # Wait for the animations of bars and lists.
    page.wait_for_timeout(700)


def show_coverage(page: Page) -> None:
    page.wait_for_selector(".card .bar-track span")
    for fold in page.query_selector_all(".card > .fold:not([hidden]) > summary")[:2]:
        fold.click()


def show_search(page: Page) -> None:
    page.fill("#query", "why does my vocal sound boomy up close")
    page.wait_for_selector(".hits > li")
    page.click(".hits > li:first-child summary")


def show_search_apart(page: Page) -> None:
    page.click("text=Side by side")
    page.fill("#query", "gain staging before compression")
    page.wait_for_selector(".pair .hits > li")


def show_map(page: Page) -> None:
    page.wait_for_selector("#map-points[data-points]")
    page.fill("#map-query", "microphone placement")
    page.wait_for_selector("#map-overlay[data-lit]:not([data-lit='0'])")


def show_map_plain(page: Page) -> None:
    page.wait_for_selector("#map-points[data-points]")
    page.click("text=The rows as a list")
    page.focus(".rows li:nth-child(3) button")


def show_synonyms(page: Page) -> None:
    page.fill("#tag-query", "bossa nova")
    page.keyboard.press("Enter")
    page.wait_for_selector(".editor form.card")


def show_cost(page: Page) -> None:
    page.wait_for_selector(".chart svg, .chart .note")


PANELS = {
    "coverage": show_coverage,
    "search": show_search,
    "search-apart": show_search_apart,
    "map": show_map,
    "map-plain": show_map_plain,
    "synonyms": show_synonyms,
    "cost": show_cost,
}

if __name__ == "__main__":
    command.run(main)
