"""Tests that the search panel shows the server's answers."""

import itertools
import re
from typing import Any

import httpx
import psycopg
import pytest
from playwright.sync_api import Page, expect
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from tests.browser.conftest import Console, OpenTab, StartConsole, provider_of
from tests.protocol_server import ProtocolServer

QUESTION = "why does a compressor make the vocal sound loud"
MARKUP = (
    '<script>window.broken = 1</script><img src="x" onerror="window.broken = 2"><b>bold</b>',
    '"><svg onload=window.broken=3> ${window.broken} {{7*7}} javascript:window.broken=4 &lt;b&gt;',
)


def hits(page: Page) -> list[str]:
    found: list[str] = page.locator("#search ol.hits > li").evaluate_all("items => items.map(item => item.dataset.id)")
    return found


def ask(console: Console, query: str, collection: str = "music_knowledge", **body: Any) -> list[dict[str, Any]]:
    answer = httpx.post(f"{console.url}/api/search/{collection}", json={"query": query, **body}, timeout=30)
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()["hits"]
    return found


def move(page: Page, full_text: float, semantic: float) -> None:
    """Set both sliders in one step for the page."""
    page.evaluate(
        """([full_text, semantic]) => {
            for (const [name, value] of [["full_text", full_text], ["semantic", semantic]]) {
                const slider = document.getElementById(`weight-${name}`);
                slider.value = value;
                slider.dispatchEvent(new Event("input", { bubbles: true }));
            }
        }""",
        [full_text, semantic],
    )


def test_results_appear_while_typing_with_marked_words_and_both_scores(reading: Console, tab: OpenTab) -> None:
    page = tab(reading.url).open("search")
    page.locator("#query").press_sequentially("vocals boomy", delay=30)
    expect(page.locator("#search ol.hits > li")).to_have_count(10)
    wanted = ask(reading, "vocals boomy")
    # The hits of "vocals boo" may still be shown.
    for place, hit in enumerate(wanted):
        expect(page.locator("#search ol.hits > li").nth(place)).to_have_attribute("data-id", hit["id"])
    first = page.locator("#search ol.hits > li").first
    assert {mark.lower() for mark in page.locator("#search mark").all_inner_texts()} == {"vocal", "vocals", "boomy"}
    expect(first.locator(".score")).to_have_text(f"{wanted[0]['score']:.3f}")
    first.locator("summary").click()
    cells = [row.split("\t") for row in first.locator("tbody tr").all_inner_texts()]
    assert [row[:4] for row in cells] == [
        ["Full text", f"#{wanted[0]['full_text_rank']}", f"{wanted[0]['full_text_score']:.4f}", "0.30"],
        ["Semantic", f"#{wanted[0]['semantic_rank']}", f"{wanted[0]['semantic_score']:.4f}", "0.70"],
    ]
    expect(page.locator("#search .status")).to_contain_text(re.compile(r"rows · [\d.]+ ms"))


@pytest.mark.parametrize("collection", ["music_knowledge", "mir_synonyms", "datasets"])
def test_the_sliders_rank_hits_like_the_server(reading: Console, tab: OpenTab, collection: str) -> None:
    opened = tab(reading.url)
    opened.page.clock.install()
    page = opened.open("search")
    expect(page.locator("#search-collection option")).to_have_count(4)
    page.select_option("#search-collection", collection)
    query = {"music_knowledge": QUESTION, "mir_synonyms": "soft jazz guitar", "datasets": "piano and drum recordings"}
    page.fill("#query", query[collection])
    expect(page.locator("#search ol.hits > li").first).to_be_visible()
    for full_text, semantic in itertools.chain([(0.3, 0.7)], itertools.product((0.05, 0.5, 1.0), (0.05, 0.45, 1.0))):
        move(page, full_text, semantic)
        # The page requests a new search when the slider stops, if the present answer is not enough to rank.
        page.clock.run_for(250)
        expect(page.locator("#search")).not_to_have_attribute("aria-busy", "true")
        wanted = ask(
            reading, query[collection], collection, full_text_weight=full_text, semantic_weight=semantic, match_count=10
        )
        expect(page.locator("#search ol.hits > li").first).to_have_attribute("data-id", wanted[0]["id"])
        assert hits(page) == [hit["id"] for hit in wanted], f"at {full_text} and {semantic}"
        shown = page.locator("#search .score").all_inner_texts()
        assert shown == [f"{hit['score']:.3f}" for hit in wanted]


def test_a_slider_ranks_at_once_without_a_request(reading: Console, tab: OpenTab) -> None:
    page = tab(reading.url).open("search")
    # Nine tags match fewer rows than the limit of an answer, so the page knows every row.
    expect(page.locator("#search-collection option")).to_have_count(4)
    page.select_option("#search-collection", "datasets")
    page.fill("#query", "drum loops")
    expect(page.locator("#search ol.hits > li").first).to_be_visible()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/api/" in request.url else None)
    before = page.locator("#search .score").all_inner_texts()
    move(page, 0.9, 0.1)
    assert page.locator("#search .score").all_inner_texts() != before
    page.wait_for_timeout(400)
    assert asked == []
    page.get_by_role("button", name="Reset the weights").click()
    assert page.locator("#search .score").all_inner_texts() == before


def test_a_weight_of_zero_requests_a_new_search(reading: Console, tab: OpenTab) -> None:
    """With a weight of zero the server leaves out a ranking, so no other answer contains these hits."""
    page = tab(reading.url).open("search")
    page.fill("#query", QUESTION)
    expect(page.locator("#search ol.hits > li").first).to_be_visible()
    with page.expect_response("**/api/search/music_knowledge"):
        move(page, 1, 0)
    wanted = ask(reading, QUESTION, full_text_weight=1, semantic_weight=0)
    expect(page.locator("#search .score").first).to_have_text("1.000")
    assert hits(page) == [hit["id"] for hit in wanted]


def test_full_text_and_semantic_hits_are_shown_side_by_side(reading: Console, tab: OpenTab) -> None:
    page = tab(reading.url).open("search")
    page.fill("#query", QUESTION)
    page.get_by_role("button", name="Side by side").click()
    expect(page.locator(".pair ol.hits")).to_have_count(2)
    for title, weights in (("Full text only", (1, 0)), ("Semantic only", (0, 1))):
        shown = page.get_by_role("region", name=title).locator("ol > li")
        wanted = ask(reading, QUESTION, full_text_weight=weights[0], semantic_weight=weights[1])
        assert [item.get_attribute("data-id") for item in shown.all()] == [hit["id"] for hit in wanted]
    expect(page.locator("#weight-full_text")).to_be_disabled()
    page.get_by_role("button", name="Hybrid").click()
    expect(page.locator("#search .results > ol.hits > li")).to_have_count(10)
    assert hits(page) == [hit["id"] for hit in ask(reading, QUESTION)]


def test_a_late_answer_is_ignored(reading: Console, tab: OpenTab) -> None:
    page = tab(reading.url).open("search")
    late = []

    def hold_first(route: Any) -> None:
        if "reverb" in route.request.post_data:
            late.append(route)
        else:
            route.continue_()

    page.route("**/api/search/*", hold_first)
    page.fill("#query", "reverb")
    expect(page.locator("#search")).to_have_attribute("aria-busy", "true")
    page.fill("#query", "tritone substitution")
    expect(page.locator("#search ol.hits h3").first).to_contain_text("tritone substitution")
    wanted = hits(page)
    for route in late:
        route.continue_()
    page.wait_for_timeout(300)
    assert hits(page) == wanted


def test_without_the_provider_the_search_is_full_text_only_and_the_page_says_so(
    reading: Console, ollama: ProtocolServer, tab: OpenTab
) -> None:
    ollama.fail("status", times=None, status=500)
    page = tab(reading.url).open("search")
    page.fill("#query", "ghost notes while it is down")
    notice = page.locator("#search .notice")
    expect(notice).to_contain_text("only full-text search was used")
    expect(page.locator("#search ol.hits h3").first).to_contain_text("ghost notes")
    ollama.faults.clear()
    page.fill("#query", "ghost notes when it is back")
    expect(notice).to_be_hidden()


def test_a_search_without_hits_says_so(reading: Console, tab: OpenTab) -> None:
    page = tab(reading.url).open("search")
    expect(page.locator("#search-collection option")).to_have_count(4)
    page.select_option("#search-collection", "code_chunks")
    page.fill("#query", "zzz")
    expect(page.locator("#search .note")).to_contain_text("Nothing found")


def test_markup_in_rows_is_shown_as_text(
    own_url: SecretStr, start: StartConsole, ollama: ProtocolServer, tab: OpenTab
) -> None:
    """Every panel shows rows with markup in all columns as plain text."""
    with psycopg.connect(own_url.get_secret_value(), autocommit=True) as connection:
        for markup in MARKUP:
            connection.execute(
                "insert into music_knowledge (topic, category, content) values (%s, %s, %s)",
                [f"zebra {markup}", f"<i>{markup}</i>", f"zebra stripes {markup}"],
            )
            connection.execute("insert into genre_tags (name) values (%s)", [f"zebra {markup}"[:100]])
        connection.execute(
            "insert into mir_synonyms (tag_type, tag_id, synonyms, source) "
            "select 'genre', id, jsonb_build_object('search_terms', jsonb_build_array(name, %s::text)), 'manual' "
            "from genre_tags where name like 'zebra%%'",
            [MARKUP[0]],
        )
    with PostgresDatabase(own_url) as database, provider_of(ollama) as provider:
        for collection in ("music_knowledge", "mir_synonyms"):
            backfill(database, provider, BackfillOptions(collection))
    page = tab(start(own_url).url).open("search")

    page.fill("#query", f"zebra {MARKUP[0]}")
    expect(page.locator("#search ol.hits h3").first).to_contain_text(MARKUP[0])
    page.locator("#search ol.hits summary").first.click()
    expect(page.locator("#search .body").first).to_contain_text(MARKUP[0])
    page.get_by_role("button", name="Side by side").click()
    expect(page.locator(".pair h4").first).to_contain_text("<script>")

    page.get_by_role("tab", name="Map").click()
    expect(page.locator("#map .legend")).to_contain_text(f"<i>{MARKUP[0]}</i>")
    page.locator("#map details summary").click()
    page.get_by_label("Narrow the list").fill("zebra")
    page.locator("#map .rows button", has_text=MARKUP[1]).focus()
    expect(page.locator("#map .tip")).to_contain_text(MARKUP[1])

    page.get_by_role("tab", name="Synonyms").click()
    page.fill("#tag-query", "zebra")
    page.locator(".tags button", has_text="onerror").first.click()
    expect(page.locator(".editor h3")).to_contain_text("<script>")
    expect(page.locator("#terms-search-terms")).to_have_value(re.compile(re.escape(MARKUP[0])))

    assert page.evaluate("window.broken") is None
    assert page.locator("main script, main img, main b b, main [onerror], main [onload]").count() == 0
