"""Tests that the cost panel shows what the runs recorded."""

import re

import psycopg
from playwright.sync_api import expect
from pydantic import SecretStr

from tests.browser.conftest import OpenTab, StartConsole, add_rows
from tests.database.spending import spend

PRICE = "2.5"


def test_the_panel_shows_tokens_and_cost_by_day_and_model_and_an_estimate_for_pending_rows(
    own_url: SecretStr, start: StartConsole, tab: OpenTab
) -> None:
    with psycopg.connect(own_url.get_secret_value(), autocommit=True) as connection:
        add_rows(connection, 200)
        page = tab(start(own_url, EMBEDDING_PRICE_PER_MILLION=PRICE).url).open("cost")
        estimate = page.locator(".card", has_text="Estimated cost of pending rows").locator("tbody tr")
        expect(estimate).to_have_count(1)
        cells = estimate.inner_text().split("\t")
        assert cells[:2] == ["music_knowledge", "200"]
        assert cells[3].startswith("$0.00")
        bars = page.locator(".chart rect")
        expect(bars).to_have_count(1)

        page.get_by_role("tab", name="Coverage").click()
        page.get_by_role("button", name="Embed now: music_knowledge").click()
        expect(page.locator('.card[data-collection="music_knowledge"] .chip')).to_have_text("up to date")
        # The rows are saved a moment before the run is recorded.
        expect(page.locator('.card[data-collection="music_knowledge"] tbody tr')).to_have_count(2)
        page.get_by_role("tab", name="Cost").click()
        expect(page.locator("#cost")).to_contain_text("No row is pending")
        tokens, cost, rows = connection.execute(
            "select sum(tokens), sum(cost_usd), sum(embedded) from embedding.runs where finished_at is not null"
        ).fetchone() or (0, 0, 0)
    assert float(cost) > 0
    figures = page.locator("#cost .figures dd").all_inner_texts()
    assert figures[0] == f"{tokens:,}"
    assert figures[2] == f"{rows:,}"
    assert float(figures[1].lstrip("$")) == float(f"{float(cost):.2g}")
    page.locator("#cost summary").click()
    expect(page.locator(".figures-table tbody tr")).to_have_text(re.compile(f"all-minilm.*{tokens:,}"))
    expect(page.locator(".chart rect title")).to_have_text(
        re.compile(f"all-minilm: {tokens:,} tokens"), use_inner_text=False
    )
    page.get_by_role("button", name="Money").click()
    expect(page.locator(".chart svg")).to_have_attribute("aria-label", re.compile("^Money"))
    page.get_by_role("button", name="7 days").click()
    expect(page.get_by_role("button", name="7 days")).to_have_attribute("aria-pressed", "true")


def test_the_panel_shows_the_budget_of_the_day(own_url: SecretStr, start: StartConsole, tab: OpenTab) -> None:
    page = tab(start(own_url).url).open("cost")
    expect(page.locator("#cost .figures dd")).to_have_count(3)
    with psycopg.connect(own_url.get_secret_value(), autocommit=True) as connection:
        spend(connection, 4.5)
        settings = {"EMBEDDING_PRICE_PER_MILLION": PRICE, "EMBEDDING_BUDGET_PER_DAY": "20"}
        page = tab(start(own_url, **settings).url).open("cost")
        expect(page.locator("#cost .figures")).to_contain_text("$4.50 of $20.00")
        expect(page.locator("#cost .figures")).to_contain_text(re.compile(r"starts again in.*(min|s)"))
