"""Tests the drawing and redrawing of the map, and its list of rows."""

import re

import psycopg
import pytest
from playwright.sync_api import Page, expect
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from tests.browser.conftest import Console, OpenTab, StartConsole, provider_of
from tests.protocol_server import ProtocolServer

DRAWN = "#map-points[data-points]"


def draws(page: Page, canvas: str = "points") -> int:
    return int(page.locator(f"#map-{canvas}").get_attribute("data-draws") or 0)


def coloured(page: Page) -> int:
    """Count the coloured pixels of the points' canvas."""
    return int(
        page.evaluate(
            """() => {
                const canvas = document.getElementById("map-points");
                const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                let filled = 0;
                for (let place = 3; place < data.length; place += 4) filled += data[place] > 0;
                return filled;
            }"""
        )
    )


def sweep(page: Page) -> None:
    """Move the pointer over the whole map."""
    box = page.locator("#map-overlay").bounding_box()
    assert box
    for row in range(12):
        page.mouse.move(box["x"] + 2, box["y"] + box["height"] * (row + 0.5) / 12)
        page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] * (row + 0.5) / 12, steps=10)


def test_every_row_is_a_point_in_the_colour_of_its_category(reading: Console, tab: OpenTab) -> None:
    page = tab(reading.url).open("map")
    expect(page.locator(DRAWN)).to_have_attribute("data-points", "80")
    assert coloured(page) > 1000
    expect(page.locator("#map-category")).to_have_value("category")
    with psycopg.connect(reading.database_url) as connection:
        counted = connection.execute("select category, count(*) from music_knowledge group by 1").fetchall()
    legend = page.locator("#map .legend li")
    expect(legend).to_have_count(len(counted))
    shown = [re.fullmatch(r"(.*?)\s*(\d+)", line) for line in legend.all_inner_texts()]
    assert {(found[1], int(found[2])) for found in shown if found} == set(counted)
    page.select_option("#map-category", "")
    expect(page.locator("#map .legend")).to_be_hidden()


def test_pointing_and_searching_redraw_only_the_overlay(reading: Console, tab: OpenTab) -> None:
    page = tab(reading.url).open("map")
    expect(page.locator(DRAWN)).to_be_visible()
    drawn = draws(page)
    sweep(page)
    assert draws(page) == drawn, "the points were drawn again"
    assert draws(page, "overlay") > 5
    page.fill("#map-query", "reverb and room")
    expect(page.locator("#map-overlay")).to_have_attribute("data-lit", re.compile("[1-9]"))
    assert draws(page) == drawn
    page.fill("#map-query", "")
    expect(page.locator("#map-overlay")).to_have_attribute("data-lit", "0")
    page.get_by_role("button", name="Zoom in").click()
    expect(page.locator(DRAWN)).to_have_attribute("data-draws", str(drawn + 1))


def test_pointing_at_one_of_two_thousand_points_does_not_redraw_them(
    own_url: SecretStr, start: StartConsole, ollama: ProtocolServer, tab: OpenTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Use prepared vectors, because the positions of the points do not matter here.
    monkeypatch.setattr(ollama, "pool", 400)
    with psycopg.connect(own_url.get_secret_value(), autocommit=True) as connection:
        connection.execute(
            "insert into music_knowledge (topic, category, content) "
            "select 'take ' || n, 'kind ' || n % 12, 'take ' || n || ' of song ' || n % 97 || ' in key ' || n % 12 "
            "from generate_series(1, 2100) n"
        )
    with PostgresDatabase(own_url) as database, provider_of(ollama) as provider:
        assert backfill(database, provider, BackfillOptions("music_knowledge", batch_size=500)).complete
    page = tab(start(own_url).url).open("map")
    expect(page.locator(DRAWN)).to_have_attribute("data-points", "2000")
    expect(page.locator("#map .status")).to_contain_text("2,000 of 2,180 rows")
    drawn = draws(page)
    sweep(page)
    assert draws(page) == drawn


def test_hovering_shows_the_row(reading: Console, tab: OpenTab) -> None:
    page = tab(reading.url).open("map")
    expect(page.locator(DRAWN)).to_be_visible()
    page.locator("#map details summary").click()
    row = page.locator("#map .rows button").first
    row.focus()
    tip = page.locator("#map .tip")
    expect(tip).to_contain_text(row.inner_text())
    # Point at the same place with the pointer.
    place = tip.evaluate(
        "tip => [parseFloat(tip.style.getPropertyValue('--x')), parseFloat(tip.style.getPropertyValue('--y'))]"
    )
    page.mouse.move(5, 5)
    page.locator("#map-overlay").hover(position={"x": place[0], "y": place[1]})
    expect(tip).to_contain_text(row.inner_text())
    page.mouse.move(5, 5)
    expect(tip).to_be_hidden()


def test_a_search_lights_up_its_hits_and_narrows_the_list(reading: Console, tab: OpenTab) -> None:
    page = tab(reading.url).open("map")
    expect(page.locator(DRAWN)).to_be_visible()
    page.locator("#map details summary").click()
    page.fill("#map-query", "tritone substitution")
    expect(page.locator("#map-overlay")).to_have_attribute("data-lit", "20")
    expect(page.locator("#map .rows li")).to_have_count(20)
    expect(page.locator("#map .rows button").first).to_have_text("tritone substitution")


def test_the_list_is_reached_and_narrowed_by_keyboard(reading: Console, tab: OpenTab) -> None:
    page = tab(reading.url).open("map")
    expect(page.locator(DRAWN)).to_be_visible()
    page.locator("#map details summary").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Narrow the list").fill("reverb")
    assert all("reverb" in text for text in page.locator("#map .rows button").all_inner_texts())
    page.keyboard.press("Tab")
    expect(page.locator("#map .tip")).to_contain_text("reverb")


def test_a_theme_change_and_a_resize_redraw_the_map(reading: Console, tab: OpenTab) -> None:
    page = tab(reading.url).open("map")
    expect(page.locator(DRAWN)).to_be_visible()
    drawn = draws(page)
    page.locator("#theme").click()
    assert draws(page) == drawn + 1
    page.set_viewport_size({"width": 700, "height": 700})
    expect(page.locator(DRAWN)).to_have_attribute("data-draws", str(drawn + 2))
