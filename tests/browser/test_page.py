"""Tests the page: key, recovery, keyboard, size, accessibility, and no requests to other hosts."""

import json
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect
from pydantic import SecretStr

from shared.embedded.migrations import migrate
from tests.browser.conftest import API_KEY, DESK, PHONE, Console, OpenTab, StartConsole
from tests.postgres_cluster import Cluster
from tests.protocol_server import ProtocolServer

PANELS = ("coverage", "search", "map", "synonyms", "cost")
MOST_BYTES = 100 * 1024


def settle(page: Page, panel: str) -> None:
    """Wait until the panel shows its content, after typing into its search field if it has one."""
    page.get_by_role("tab", name=panel).click()
    match panel:
        case "coverage":
            expect(page.locator(".card")).to_have_count(4)
            for fold in page.locator(".card summary:visible").all():
                fold.click()
        case "search":
            page.fill("#query", "why does the vocal sound boomy")
            expect(page.locator("ol.hits > li")).to_have_count(10)
            page.locator("ol.hits summary").first.click()
        case "map":
            expect(page.locator("#map-points[data-points]")).to_be_visible()
            page.locator("#map summary").click()
        case "synonyms":
            page.fill("#tag-query", "bossa nova")
            page.locator("#tag-query").press("Enter")
            expect(page.locator(".editor form.card")).to_be_visible()
            expect(page.locator(".synonym-state table")).to_be_visible()
        case "cost":
            expect(page.locator(".chart svg")).to_be_visible()
            expect(page.locator("#cost .runs")).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["1280", "390"])
def test_axe_finds_nothing_serious_and_nothing_scrolls_sideways(
    reading: Console, tab: OpenTab, axe: str, size: tuple[int, int], theme: str
) -> None:
    # The driver injects axe, because the page's security policy would block it.
    page = tab(reading.url, size=size, theme=theme, bypass_csp=True).open()
    page.evaluate(axe)
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if theme == "dark":
        # A theme changes only colours, so the other rules run only on the light theme.
        options["runOnly"] = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
    for panel in PANELS:
        settle(page, panel)
        found: dict[str, Any] = page.evaluate("options => axe.run(document, options)", options)
        serious = [
            (rule["id"], rule["help"], [node["html"][:120] for node in rule["nodes"][:3]])
            for rule in found["violations"]
            if rule["impact"] in ("serious", "critical")
        ]
        assert serious == [], f"{panel}: {json.dumps(serious, indent=1)}"
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= size[0], f"{panel} is {width} pixels wide"


def test_the_key_is_requested_and_kept_in_memory_only(own_url: SecretStr, start: StartConsole, tab: OpenTab) -> None:
    server = start(own_url, FUNCTIONS_API_KEY=API_KEY)
    opened = tab(server.url)
    opened.expected = ["401"]
    sent: list[tuple[str, str]] = []
    opened.page.on("request", lambda request: sent.append((request.url, request.headers.get("authorization", ""))))
    page = opened.open()
    form = page.locator("#coverage form.note")
    expect(form).to_contain_text("asks for its key")
    form.locator("input").fill("wrong")
    form.get_by_role("button").click()
    expect(form).to_contain_text("refused this key")
    form.locator("input").fill(API_KEY)
    form.get_by_role("button").click()
    expect(page.locator(".card")).to_have_count(4)
    for panel in PANELS:
        settle(page, panel)
    assert any(value == f"Bearer {API_KEY}" for _, value in sent)
    assert all(API_KEY not in url for url, _ in sent)
    assert [url for url, value in sent if "/api/search/" in url and value] == [], "search goes without it"
    kept = page.evaluate(
        "JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href, history.state])"
    )
    assert API_KEY not in kept + page.content()

    page.get_by_role("button", name="Forget key").click()
    page.get_by_role("tab", name="Coverage").click()
    expect(form).to_contain_text("asks for its key")
    page.reload()
    expect(form).to_contain_text("asks for its key")


def test_search_works_without_a_key(own_url: SecretStr, start: StartConsole, tab: OpenTab) -> None:
    opened = tab(start(own_url, FUNCTIONS_API_KEY=API_KEY).url)
    page = opened.open("search")
    page.fill("#query", "tritone substitution")
    expect(page.locator("ol.hits > li").first).to_contain_text("tritone substitution")


def test_the_page_reports_a_lost_server_and_reconnects(own_url: SecretStr, start: StartConsole, tab: OpenTab) -> None:
    server = start(own_url)
    opened = tab(server.url)
    opened.expected = ["ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE"]
    page = opened.open("search")
    page.fill("#query", "reverb")
    expect(page.locator("ol.hits > li").first).to_be_visible()
    server.stop()
    page.fill("#query", "reverb and delay")
    banner = page.locator("#notices")
    expect(banner).to_contain_text("does not answer")
    expect(banner.locator("code")).to_have_text(f"make serve PORT={httpx.URL(server.url).port}")
    server.start()
    expect(banner).to_be_empty()
    expect(page.locator("ol.hits > li").first).to_be_visible()
    # The panel shows this although it sends no request of its own.
    server.stop()
    expect(banner).to_contain_text("does not answer")
    # The module of this tab is not loaded yet.
    page.get_by_role("tab", name="Cost").click()
    server.start()
    expect(banner).to_be_empty()
    expect(page.locator("#cost .chart svg")).to_be_visible()
    page.get_by_role("tab", name="Search").click()
    expect(page.locator("ol.hits > li").first).to_be_visible()


def test_a_missing_provider_is_shown_with_the_fix(
    own_url: SecretStr, start: StartConsole, ollama: ProtocolServer, tab: OpenTab
) -> None:
    page = tab(start(own_url, OLLAMA_URL="http://127.0.0.1:9").url).open()
    expect(page.locator("#notices")).to_contain_text("cannot be reached")
    expect(page.locator("#notices")).to_contain_text("ollama serve")


def test_only_collections_of_the_database_are_shown(cluster: Cluster, start: StartConsole, tab: OpenTab) -> None:
    with cluster.empty() as url:
        migrate(url, collections=["datasets"], seed=True)
        page = tab(start(url).url).open("synonyms")
        expect(page.locator("#coverage")).to_contain_text("datasets")
        expect(page.locator("#tab-synonyms")).to_be_hidden()
        page.locator("#tab-map").focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#tab-cost")).to_be_focused()
        page.click("#tab-search")
        expect(page.locator("#search-collection option")).to_have_text(["datasets"])
        page.fill("#query", "drums")
        expect(page.locator("ol.hits > li").first).to_contain_text("drum")


def test_without_a_collection_search_and_map_say_how_to_add_one(
    cluster: Cluster, start: StartConsole, tab: OpenTab
) -> None:
    with cluster.empty() as url:
        migrate(url, collections=[])
        page = tab(start(url).url).open("search")
        for panel in ("search", "map"):
            page.click(f"#tab-{panel}")
            expect(page.locator(f"#{panel}")).to_contain_text("scripts/migrate.py --collections music_knowledge")


def test_a_missing_database_is_shown_with_the_fix(start: StartConsole, tab: OpenTab) -> None:
    opened = tab(start(SecretStr("postgresql://postgres@127.0.0.1:9/none")).url)
    opened.expected = ["503", "504"]
    page = opened.open()
    expect(page.locator("#notices")).to_contain_text("The database does not answer")
    expect(page.locator("#coverage .note")).to_contain_text("That did not work")


def test_the_first_load_is_small_and_requests_no_other_host(reading: Console, tab: OpenTab) -> None:
    opened = tab(reading.url)
    page = opened.page
    wire = page.context.new_cdp_session(page)
    wire.send("Network.enable")
    received: list[float] = []
    wire.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))
    opened.open()
    expect(page.locator(".card")).to_have_count(4)
    assert 5_000 < sum(received) < MOST_BYTES / 2, "the first load on the wire, its data included"
    first = files(page, reading)
    assert sum(len(httpx.get(url).content) for url in first) < 0.6 * MOST_BYTES, "its files unpacked"
    for panel in PANELS:
        settle(page, panel)
    every = files(page, reading)
    assert first < every
    answers = [httpx.get(url, headers={"accept-encoding": "gzip"}) for url in every]
    assert sum(int(answer.headers["content-length"]) for answer in answers) < MOST_BYTES / 2, "every panel's files"


def files(page: Page, console: Console) -> set[str]:
    """The page and the files that it has loaded."""
    loaded = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    return {url for url in loaded if "/console/" in url} | {f"{console.url}/"}


def test_the_page_runs_only_its_own_scripts(reading: Console, tab: OpenTab) -> None:
    opened = tab(reading.url)
    opened.expected = ["Content Security Policy", "content security policy"]
    page = opened.open()
    policy = httpx.get(reading.url).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.broken = 1";
            document.body.append(script);
            const elsewhere = document.createElement("img");
            elsewhere.setAttribute("onerror", "window.broken = 2");
            elsewhere.src = "/nothing.png";
            document.body.append(elsewhere);
        }"""
    )
    page.wait_for_timeout(200)
    opened.expected.append("404")
    assert page.evaluate("window.broken") is None


def test_tabs_are_changed_by_keyboard_and_kept_in_the_address(reading: Console, tab: OpenTab) -> None:
    page = tab(reading.url).open()
    expect(page.locator(".card").first).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.get_by_role("tab", name="Coverage").focus()
    for panel in (*PANELS[1:], PANELS[0]):
        page.keyboard.press("ArrowDown")
        expect(page.locator(f"#{panel}")).to_be_visible()
        assert page.evaluate("document.activeElement.id") == f"tab-{panel}"
    page.keyboard.press("End")
    page.reload()
    expect(page.get_by_role("tab", name="Cost")).to_have_attribute("aria-selected", "true")


def test_the_chosen_theme_is_not_stored(reading: Console, tab: OpenTab) -> None:
    page = tab(reading.url).open()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    for chosen in ("light", "dark"):
        page.locator("#theme").click()
        expect(page.locator("#theme")).to_have_text(f"Theme: {chosen}")
    assert page.evaluate(ground) != light
    page.reload()
    assert page.evaluate(ground) == light
