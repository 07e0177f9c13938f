"""Tests the routes with a broken table beside working ones."""

import httpx

from tests.conftest import Connection
from tests.database.rows import add


def test_routes_report_a_broken_collection_with_the_fix_and_serve_the_others(
    keyed: httpx.Client, owner: Connection
) -> None:
    owner.execute("create table songs (id int primary key, body text)")
    owner.execute("create function embedding.document_text(n songs) returns text language sql immutable return n.body")
    owner.execute("select track_embeddings('songs')")
    owner.execute("insert into songs values (1, 'a song')")
    owner.execute("alter table songs drop column body cascade")
    add(owner, "a row")
    answer = keyed.get("/api/collections")
    assert answer.status_code == 200
    found = {one["collection"]: one for one in answer.json()["collections"]}
    assert (found["music_knowledge"]["pending"], found["music_knowledge"]["error"]) == (1, None)
    assert (found["songs"]["pending"], found["songs"]["embedded"]) == (1, 0)
    assert "does not exist" in found["songs"]["error"]
    assert "select track_embeddings('public.songs')" in found["songs"]["error"]
    assert keyed.get("/metrics").status_code == 200
    estimate = keyed.get("/api/collections/songs/estimate")
    assert estimate.status_code == 422
    assert "track_embeddings('public.songs')" in estimate.json()["error"]["message"]
    assert "a song" not in answer.text + estimate.text
