"""Tests the page's pure modules in the browser: ranking and stems match the server's."""

import re

import psycopg
from playwright.sync_api import Page

from tests.browser.conftest import ROOT, Console, OpenTab

RANDOM_RANKING = """async () => {
    const { isCertain, rerank } = await import("/console/rank.js");
    let state = 7;
    const random = () => (state = (state * 16807) % 2147483647) / 2147483647;
    const ids = (hits) => hits.slice(0, 10).map((hit) => hit.id).join();
    const counts = { certain: 0, uncertain: 0, wrong: 0, different: 0 };
    for (let round = 0; round < 400; round++) {
        const asked = { full_text: 0.3, semantic: 0.7 };
        const weights = { full_text: random(), semantic: random() };
        const bonus = round % 2;
        const rows = [...Array(120).keys()].map((number) => {
            const row = { id: String(number).padStart(4, "0"), full_text_score: random() ** 3, semantic_score: 0.5 + random() / 2 };
            const hybrid = 0.3 * row.full_text_score + 0.7 * row.semantic_score;
            // Every second round as datasets are: with parts that no slider weighs.
            return bonus ? { ...row, hybrid_score: hybrid, score: hybrid + 0.2 * random() } : { ...row, score: hybrid };
        });
        const hits = rerank(rows, asked).slice(0, 50);
        const answer = { hits, weights: asked, wanted: 50 };
        const right = ids(rerank(hits, weights)) === ids(rerank(rows, weights));
        const certain = isCertain(answer, weights, 10);
        counts[certain ? "certain" : "uncertain"]++;
        if (certain && !right) counts.wrong++;
        if (!right) counts.different++;
    }
    return counts;
}"""


def test_a_ranking_is_certain_only_if_no_unlisted_row_can_enter_it(reading: Console, tab: OpenTab) -> None:
    counts = tab(reading.url).open().evaluate(RANDOM_RANKING)
    assert counts["wrong"] == 0
    assert counts["different"] > 10, "the rows do not put it to the test"
    assert counts["certain"] > 50
    assert counts["uncertain"] > 50


def test_words_are_stemmed_as_the_database_stems_them(reading: Console, tab: OpenTab) -> None:
    """The console must mark exactly the words that full-text search matches."""
    texts = [path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.md"), *ROOT.glob("supabase/seed*.sql"))]
    words = sorted({word.lower() for word in re.findall("[A-Za-z]+", " ".join(texts))})
    assert len(words) > 3000
    with psycopg.connect(reading.database_url) as connection:
        rows = connection.execute(
            "select w, ts_lexize('english_stem', w) from unnest(%s::text[]) w", [words]
        ).fetchall()
    page = tab(reading.url).open()
    stems = in_page(page, "stem", [word for word, _ in rows])
    different = [
        (word, lexemes, stem)
        for (word, lexemes), stem in zip(rows, stems, strict=True)
        if lexemes and lexemes != [stem]
    ]
    assert different == []
    # A word that PostgreSQL leaves out is never marked.
    left_out = [word for word, lexemes in rows if lexemes == []]
    assert len(left_out) > 80
    assert (
        page.evaluate("async (words) => [...(await import('/console/words.js')).stems(words.join(' '))]", left_out)
        == []
    )


def in_page(page: Page, function: str, words: list[str]) -> list[str]:
    found: list[str] = page.evaluate(
        "async ([name, words]) => words.map((await import('/console/words.js'))[name])", [function, words]
    )
    return found
