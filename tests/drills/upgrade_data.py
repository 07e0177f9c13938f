"""Reads the rows, queue and search results that an upgrade must preserve."""

from collections.abc import Mapping
from typing import Any

from shared.database.base import Database
from shared.embedding.collection import embedding_coverage, vector_text
from tests.database.rows import Connection
from tests.drills.inputs_rows import tables
from tests.fake_provider import FakeProvider

Rows = dict[str, list[dict[str, Any]]]


def contents(owner: Connection) -> Rows:
    """Every row of every table as JSON, in an order that does not depend on later columns."""
    found: Rows = {}
    for table in tables(owner):
        rows = [row for (row,) in owner.execute(f"select to_jsonb(t) from {table} t").fetchall()]
        found[table] = sorted(rows, key=lambda row: str(sorted((key, str(value)) for key, value in row.items())))
    return found


def missing_from(before: Rows, after: Rows) -> list[str]:
    """Rows that are missing or changed; new tables, columns and rows are ignored."""
    lost = []
    for table, rows in before.items():
        columns = {name for row in rows for name in row}
        kept = [{name: row[name] for name in columns if name in row} for row in after.get(table, ())]
        lost += [f"{table}: {row}" for row in rows if row not in kept]
    return lost


def answers(database: Database, provider: FakeProvider) -> Mapping[str, list[str]]:
    """The ids that each search finds, best first, by full-text, semantic and hybrid search."""
    vector = vector_text(provider.embed_query("gain staging of drums and salsa, def parse"))
    text = "gain staging drums salsa parse modes"
    rankings: Mapping[str, dict[str, object]] = {
        "full-text": {"query_text": text},
        "semantic": {"query_embedding": vector},
        "hybrid": {"query_text": text, "query_embedding": vector},
    }
    return {
        f"{collection} by {ranking}": [str(row["id"]) for row in database.call(f"search_{collection}", arguments)]
        for collection in ("music_knowledge", "mir_synonyms", "datasets", "code_chunks")
        for ranking, arguments in rankings.items()
    }


def coverage(database: Database) -> list[object]:
    """The coverage of every collection."""
    return sorted(embedding_coverage(database), key=lambda one: one.collection)
