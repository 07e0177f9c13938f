"""Tests the synonyms panel: looking up a tag, editing its synonyms, and finding the tag by them."""

import httpx
import psycopg
import pytest
from playwright.sync_api import Page, expect
from pydantic import SecretStr

from tests.browser.conftest import Console, OpenTab, StartConsole
from tests.protocol_server import ProtocolServer


@pytest.fixture
def own(own_url: SecretStr, start: StartConsole) -> Console:
    """A server that has a generator."""
    return start(own_url, GENERATION_PROVIDER="ollama")


def look_up(page: Page, name: str) -> None:
    page.fill("#tag-query", name)
    page.locator("#tag-query").press("Enter")


def terms(console: Console, name: str) -> list[str]:
    found: list[str] = httpx.get(f"{console.url}/api/synonyms/genre/{name}").json()["synonyms"]["search_terms"]
    return found


def test_a_tag_is_looked_up_edited_deactivated_and_activated(own: Console, tab: OpenTab) -> None:
    page = tab(own.url).open("synonyms")
    look_up(page, "bossa nova")
    expect(page.locator(".editor h3")).to_have_text("bossa nova")
    area = page.locator("#terms-search-terms")
    expect(area).to_have_value("\n".join(terms(own, "bossa nova")))
    area.fill("bossa nova\nhammock music\n\n  nylon guitar  ")
    expect(page.locator(".editor [role=status]")).to_have_text("Unsaved changes")
    with page.expect_event("dialog") as asked:
        look_up(page, "techno")
    assert asked.value.message == "Discard the unsaved changes?"
    asked.value.dismiss()
    expect(page.locator(".editor h3")).to_have_text("bossa nova")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".editor [role=status]")).to_contain_text("Saved")
    assert terms(own, "bossa nova") == ["bossa nova", "hammock music", "nylon guitar"]

    page.fill("#tag-query", "hammock music")
    expect(page.locator(".tags button").first).to_contain_text("bossa nova")

    page.get_by_role("button", name="Remove from search").click()
    expect(page.locator(".editor .chip")).to_have_text("not searched")
    assert httpx.get(f"{own.url}/api/synonyms/genre/bossa nova").status_code == 404
    page.get_by_role("button", name="Put back into search").click()
    expect(page.locator(".editor .chip")).to_have_text("active")
    assert terms(own, "bossa nova")[1] == "hammock music"


def test_a_concurrent_change_is_not_overwritten(own: Console, tab: OpenTab) -> None:
    opened = tab(own.url)
    opened.expected = ["409"]
    page = opened.open("synonyms")
    look_up(page, "techno")
    expect(page.locator(".editor h3")).to_have_text("techno")
    stored = httpx.get(f"{own.url}/api/synonyms/genre/techno").json()
    theirs = {"synonyms": {"search_terms": ["techno", "theirs"]}}
    assert httpx.put(f"{own.url}/api/synonyms/{stored['id']}", json=theirs).status_code == 200
    page.locator("#terms-search-terms").fill("techno\nmine")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".editor [role=status]")).to_contain_text("Nothing was overwritten")
    page.get_by_role("button", name="Read it again").click()
    expect(page.locator("#terms-search-terms")).to_have_value("techno\ntheirs")


def test_generating_one_tag_again_changes_no_other_tag(own: Console, ollama: ProtocolServer, tab: OpenTab) -> None:
    ollama.vocabulary["techno"] = ["warehouse pulse", "machine drums", "club night", "four on the floor"]
    before = terms(own, "trance")
    page = tab(own.url).open("synonyms")
    look_up(page, "techno")
    page.get_by_role("button", name="Generate again").click()
    expect(page.locator(".editor .card-head .dim")).to_contain_text("generated")
    assert "warehouse pulse" in page.locator("#terms-search-terms").input_value()
    assert terms(own, "trance") == before


def test_a_tag_without_synonyms_can_get_its_first_ones(own: Console, own_url: SecretStr, tab: OpenTab) -> None:
    with psycopg.connect(own_url.get_secret_value(), autocommit=True) as connection:
        connection.execute("insert into genre_tags (name) values ('zouk')")
    opened = tab(own.url)
    opened.expected = ["404"]
    page = opened.open("synonyms")
    expect(page.locator(".synonym-state")).to_contain_text("Write synonyms for 1 tag")
    page.select_option("#tag-type", "genre")
    # Full-text search finds nothing. The semantic hits are other tags, and none of them is opened.
    look_up(page, "zouk")
    page.get_by_role("button", name="Write synonyms for the genre").click()
    expect(page.locator("#terms-search-terms")).to_have_value("zouk")
    look_up(page, "zouk")
    expect(page.locator(".tags button").first).to_contain_text("zouk")


def test_without_a_generator_the_panel_says_how_to_configure_one(reading: Console, tab: OpenTab) -> None:
    page = tab(reading.url).open("synonyms")
    expect(page.locator(".synonym-state")).to_contain_text("GENERATION_PROVIDER")
    look_up(page, "bossa nova")
    expect(page.get_by_role("button", name="Save")).to_be_visible()
    expect(page.get_by_role("button", name="Generate again")).to_have_count(0)
