"""Helpers for tags over HTTP: add a tag, deliver its webhook, search, write synonyms."""

from typing import Any

import httpx

from tests.conftest import Connection
from tests.functions.conftest import KEYS, WEBHOOK_SECRET

HOOK = {"x-webhook-secret": WEBHOOK_SECRET}


def add_tag(owner: Connection, name: str, table: str = "genre_tags") -> int:
    row = owner.execute(f"insert into {table} (name) values (%s) returning id", [name]).fetchone()
    assert row is not None
    return int(str(row[0]))


def deliver(
    client: httpx.Client, kind: str, tag_id: int, name: str, *, old: str | None = None, table: str = "genre_tags"
) -> Any:
    """Deliver the tag like Supabase's database webhook."""
    record = {"id": tag_id, "name": name, "description": "", "created_at": "2026-11-21T00:00:00+00:00"}
    old_record = {**record, "name": old} if old else None
    body = {"type": kind, "table": table, "schema": "public", "record": record, "old_record": old_record}
    answer = client.post("/api/webhooks/synonyms", json=body, headers=HOOK)
    assert answer.status_code == 202, answer.text
    return answer.json()


def search(client: httpx.Client, query: str, **body: Any) -> list[dict[str, Any]]:
    answer = client.post("/api/mir/synonyms/search", json={"query": query, **body})
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def by_full_text(client: httpx.Client, query: str, **body: Any) -> list[str]:
    """Return the names of the tags that full-text search finds."""
    return [hit["tag_name"] for hit in search(client, query, **body) if hit["full_text_rank"] is not None]


def write(client: httpx.Client, name: str, *terms: str, **body: Any) -> httpx.Response:
    synonyms = {"search_terms": [name, *terms], **body.pop("more", {})}
    given = {"tag_type": "genre", "tag_name": name, "synonyms": synonyms, **body}
    return client.post("/api/synonyms", json=given, headers=KEYS)
