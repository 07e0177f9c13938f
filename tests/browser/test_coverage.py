"""Tests the coverage panel: counts, a running backfill, a model switch, failed rows and their retry."""

import re
import threading

import psycopg
import pytest
from playwright.sync_api import Page, Route, expect
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.model_switch import switch_model
from tests.browser.conftest import DESK, Console, OpenTab, StartConsole, add_rows, provider_of
from tests.conftest import Connection
from tests.fake_provider import FakeProvider
from tests.protocol_server import ProtocolServer

CARD = '.card[data-collection="music_knowledge"]'
# Seconds between two requests of the page while no backfill runs.
IDLE_MS = 10_000


def figures(page: Page) -> dict[str, str]:
    card = page.locator(CARD)
    return dict(zip(card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts(), strict=True))


@pytest.fixture
def own(own_url: SecretStr, start: StartConsole) -> Console:
    return start(own_url)


@pytest.fixture
def rows(own_url: SecretStr) -> Connection:
    with psycopg.connect(own_url.get_secret_value(), autocommit=True) as connection:
        yield connection


def test_each_collection_has_a_card_with_its_coverage_and_last_run(reading: Console, tab: OpenTab) -> None:
    page = tab(reading.url).open()
    expect(page.locator(".card")).to_have_count(4)
    assert figures(page) == {"rows": "80", "embedded": "80", "pending": "0", "failed": "0"}
    card = page.locator(CARD)
    expect(card.locator(".legend li")).to_have_text(re.compile("all-minilm.*100.%"))
    card.locator("summary:visible").click()
    expect(card.locator("tbody tr").first).to_contain_text("finished")
    expect(page.locator("#coverage-summary")).to_contain_text("167 rows")


def test_a_failed_run_is_shown_on_its_own_card_beside_a_complete_collection(
    own: Console, rows: Connection, tab: OpenTab
) -> None:
    reason = "cannot reach http://127.0.0.1:9/api/embed " * 9
    rows.execute("update embedding.runs set status = 'failed', error = %s", [reason])
    page = tab(own.url).open()
    card = page.locator(CARD)
    summary = card.locator("summary:visible")
    expect(summary).to_contain_text("Last run failed")
    expect(summary).to_contain_text("every row is embedded now")
    summary.click()
    expect(card.locator("td.reason").first).to_be_visible()
    wide = "table => table.scrollWidth <= table.closest('.card').clientWidth"
    assert card.locator(".runs").evaluate(wide)
    page.get_by_role("tab", name="Cost").click()
    expect(page.locator("#cost td.reason").first).to_be_visible()
    assert page.locator("#cost .runs").evaluate(wide)
    assert page.evaluate("document.documentElement.scrollWidth") <= DESK[0]


def test_a_running_backfill_is_shown(own: Console, rows: Connection, ollama: ProtocolServer, tab: OpenTab) -> None:
    add_rows(rows, 1500)
    ollama.latency = 0.7
    page = tab(own.url).open()
    card = page.locator(CARD)
    expect(card.locator(".chip")).to_have_text("1,500 pending")
    card.get_by_role("button", name="Embed now: music_knowledge").click()
    expect(card.locator(".chip")).to_have_text("embedding")
    live = card.locator(".live")
    expect(live).to_contain_text(re.compile(r"rows/s · .* left"))
    seen = live.locator("span").inner_text()
    expect(live.locator("span")).not_to_have_text(seen)
    ollama.latency = 0
    expect(card.locator(".chip")).to_have_text("up to date")
    expect(live).to_be_hidden()
    assert figures(page) == {"rows": "1,580", "embedded": "1,580", "pending": "0", "failed": "0"}


def test_during_a_switch_the_bar_has_a_part_for_each_model(
    own_url: SecretStr, start: StartConsole, tab: OpenTab
) -> None:
    with PostgresDatabase(own_url) as database:
        wide = FakeProvider("wide", 48)
        switch_model(database, wide, "music_knowledge")
        backfill(database, wide, BackfillOptions("music_knowledge", batch_size=10, limit=20))
        opened = tab(start(own_url).url)
        opened.page.clock.install()
        page = opened.open()
        legend = page.locator(f"{CARD} .legend li")
        expect(legend).to_have_text([re.compile("wide.*25.%"), re.compile("all-minilm.*75.%")])
        shares = page.locator(f"{CARD} .bar-track span")
        assert [part.evaluate("part => part.style.getPropertyValue('--share')") for part in shares.all()] == [
            "0.25",
            "0.75",
        ]
        backfill(database, wide, BackfillOptions("music_knowledge"))
        # The page updates itself without user input.
        page.clock.run_for(IDLE_MS)
        expect(legend).to_have_text([re.compile("wide.*100.%")])


def test_estimated_counts_are_shown_as_such(reading: Console, tab: OpenTab) -> None:
    def as_large(route: Route) -> None:
        answer = route.fetch()
        listed = answer.json()
        (music,) = [one for one in listed["collections"] if one["collection"] == "music_knowledge"]
        music.update(estimated=True, total=1_000_000, pending=999_920)
        route.fulfill(response=answer, json=listed)

    opened = tab(reading.url)
    opened.page.route("**/api/collections", as_large)
    page = opened.open()
    expect(page.locator("#coverage-summary")).to_contain_text("about 1,000,087 rows")
    assert figures(page) == {
        "rows": "about 1,000,000",
        "embedded": "about 80",
        "pending": "about 999,920",
        "failed": "0",
    }
    expect(page.locator(f"{CARD} .chip")).to_have_text("about 999,920 pending")


def test_an_unreadable_table_is_shown_with_the_fix_and_the_others_are_shown(
    own_url: SecretStr, rows: Connection, start: StartConsole, tab: OpenTab
) -> None:
    rows.execute("drop function embedding.document_text(public.code_chunks)")
    page = tab(start(own_url).url).open()
    broken = page.locator("article[data-collection=code_chunks]")
    expect(broken.locator(".chip")).to_have_text("cannot be read")
    expect(broken.get_by_role("alert")).to_contain_text("track_embeddings")
    expect(page.locator(f"{CARD} .chip")).to_have_text("up to date")
    expect(page.locator(f"{CARD}").get_by_role("alert")).to_be_hidden()


def test_failed_rows_show_the_reason_and_are_retried_alone_or_together(
    own: Console, own_url: SecretStr, rows: Connection, ollama: ProtocolServer, tab: OpenTab
) -> None:
    add_rows(rows, 3, "poison {} in the well")
    ollama.fail("poison", times=None, containing="poison", message="the input is not acceptable")
    with PostgresDatabase(own_url) as database, provider_of(ollama) as provider:
        for _ in range(8):
            backfill(database, provider, BackfillOptions("music_knowledge"))
            rows.execute("update embedding.queue set available_at = now() where failed_at is null")
    page = tab(own.url).open()
    card = page.locator(CARD)
    expect(card.locator(".chip")).to_have_text("3 failed")
    assert figures(page)["failed"] == "3"
    card.locator(".failed summary").click()
    failed = card.locator(".failures li")
    expect(failed).to_have_count(3)
    assert all("refused" in text or "not acceptable" in text for text in failed.all_inner_texts())

    failed.first.get_by_role("button").click()
    expect(failed).to_have_count(2)
    assert figures(page) == {"rows": "83", "embedded": "80", "pending": "1", "failed": "2"}
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY", "the focus is not lost with the row"
    card.get_by_role("button", name="Retry all failed rows of music_knowledge").click()
    expect(card.locator(".failed")).to_be_hidden()
    ollama.faults.clear()
    card.get_by_role("button", name="Embed now: music_knowledge").click()
    expect(card.locator(".chip")).to_have_text("up to date")
    assert figures(page) == {"rows": "83", "embedded": "83", "pending": "0", "failed": "0"}


def test_a_hidden_page_makes_no_requests(reading: Console, tab: OpenTab) -> None:
    opened = tab(reading.url)
    page = opened.page
    page.clock.install()
    asked: list[str] = []
    page.on("request", lambda request: request.url.endswith("/api/collections") and asked.append(request.url))
    opened.open()
    expect(page.locator(".card")).to_have_count(4)
    assert asks_within(page, asked, 25_000) > 0

    page.get_by_role("tab", name="Search").click()
    expect(page.locator("#query")).to_be_visible()
    assert asks_within(page, asked, 60_000) == 0, "another panel is open"
    page.get_by_role("tab", name="Coverage").click()
    assert asks_within(page, asked, 25_000) > 0

    hide = """hidden => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, True)
    assert asks_within(page, asked, 60_000) == 0, "the browser's tab is hidden"
    page.evaluate(hide, False)
    assert asks_within(page, asked, 25_000) > 0


def asks_within(page: Page, asked: list[str], milliseconds: int) -> int:
    """Count the requests of the page while its clock advances by this time."""
    # A pending answer may set the next timer.
    page.wait_for_timeout(300)
    asked.clear()
    page.clock.run_for(milliseconds)
    page.wait_for_timeout(300)
    return len(asked)


def test_an_empty_database_says_what_to_do(database_url: SecretStr, start: StartConsole, tab: OpenTab) -> None:
    opened = tab(start(database_url).url)
    opened.page.clock.install()
    page = opened.open()
    note = page.locator("#coverage .note")
    expect(note).to_contain_text("The collections are empty")
    expect(note.locator("code")).to_have_text("make demo")
    with psycopg.connect(database_url.get_secret_value(), autocommit=True) as connection:
        add_rows(connection, 2)
    page.clock.run_for(IDLE_MS)
    expect(page.locator(f"{CARD} .chip")).to_have_text("2 pending")
    for panel, said in (("map", "No vectors to draw yet"), ("cost", "Nothing was embedded in this time")):
        page.get_by_role("tab", name=panel).click()
        expect(page.locator(f"#{panel} .note").first).to_contain_text(said)


def test_two_waiting_panels_do_not_block_each_other(reading: Console, tab: OpenTab) -> None:
    """A user may change tabs before the server answers."""
    page = tab(reading.url).open()
    gate = threading.Event()
    held: list[Route] = []
    page.route("**/api/collections", lambda route: route.continue_() if gate.is_set() else held.append(route))
    for name in ("Map", "Cost", "Coverage"):
        page.get_by_role("tab", name=name).click()
    expect(page.locator("#coverage")).to_be_visible()
    gate.set()
    for route in held:
        route.continue_()
    expect(page.locator(".card").first).to_be_visible()
