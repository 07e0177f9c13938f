"""Tests editing synonyms over HTTP."""

from typing import Any

import httpx
import pytest

from tests.conftest import Connection
from tests.fake_provider import FakeProvider
from tests.functions.conftest import KEYS
from tests.functions.synonym_tags import add_tag, by_full_text, deliver, search, write


def test_without_a_generator_hand_made_synonyms_work_fully(client: httpx.Client, owner: Connection) -> None:
    tag_id = add_tag(owner, "Zouk")
    assert deliver(client, "INSERT", tag_id, "Zouk")["status"] == "skipped"
    refused = client.post("/api/synonyms/generate", headers=KEYS)
    assert refused.status_code == 422
    assert "GENERATION_PROVIDER" in refused.json()["error"]["message"]

    created = write(client, "zouk", "caribbean dance", confidence=0.9)
    assert created.status_code == 201, created.text
    stored = created.json()
    assert (stored["tag_id"], stored["tag_name"], stored["source"], stored["is_active"]) == (
        tag_id,
        "Zouk",
        "manual",
        True,
    )
    (hit,) = search(client, "caribbean")
    assert hit["semantic_score"] > 0, "it is embedded at once"
    assert hit["confidence"] == pytest.approx(0.9)

    changed = client.put(
        f"/api/synonyms/{stored['id']}", json={"synonyms": {"search_terms": ["zouk", "antilles"]}}, headers=KEYS
    )
    assert changed.status_code == 200, changed.text
    assert by_full_text(client, "caribbean") == []
    assert by_full_text(client, "antilles") == ["Zouk"]

    gone = client.delete(f"/api/synonyms/{stored['id']}", headers=KEYS)
    assert (gone.status_code, gone.json()["is_active"]) == (200, False)
    assert search(client, "antilles") == []
    assert client.get("/api/synonyms/genre/Zouk").status_code == 404

    back = client.put(f"/api/synonyms/{stored['id']}", json={"is_active": True}, headers=KEYS)
    assert back.status_code == 200
    assert by_full_text(client, "antilles") == ["Zouk"]


def test_active_synonyms_are_not_overwritten_and_inactive_ones_are_replaced(
    client: httpx.Client, owner: Connection
) -> None:
    add_tag(owner, "Zouk")
    first = write(client, "Zouk", "one").json()
    conflict = write(client, "Zouk", "two")
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (409, "conflict")
    assert f"PUT /api/synonyms/{first['id']}" in conflict.json()["error"]["message"]
    client.delete(f"/api/synonyms/{first['id']}", headers=KEYS)
    revived = write(client, "Zouk", "two")
    assert (revived.status_code, revived.json()["id"]) == (201, first["id"])
    assert by_full_text(client, "two") == ["Zouk"]


def test_an_edit_of_synonyms_changed_in_the_meantime_is_refused(client: httpx.Client, owner: Connection) -> None:
    add_tag(owner, "Zouk")
    read = write(client, "Zouk", "one").json()
    address, both = f"/api/synonyms/{read['id']}", {"confidence": 0.5, "updated_at": read["updated_at"]}
    assert client.put(address, json=both, headers=KEYS).status_code == 200
    refused = client.put(address, json=both, headers=KEYS)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    "body",
    [
        {"tag_type": "genre", "tag_name": "Zouk", "synonyms": {"search_terms": []}},
        {"tag_type": "genre", "tag_name": "Zouk", "synonyms": {"search_terms": ["a", " "]}},
        {"tag_type": "genre", "tag_name": "Zouk", "synonyms": {"search_terms": ["a", "A"]}},
        {"tag_type": "genre", "tag_name": "Zouk", "synonyms": {"search_terms": ["a"], "translations": {"de": ["a"]}}},
        {"tag_type": "tempo", "tag_name": "Zouk", "synonyms": {"search_terms": ["a"]}},
        {"tag_type": "genre", "synonyms": {"search_terms": ["a"]}},
        {"tag_type": "genre", "tag_name": "Zouk", "tag_id": 1, "synonyms": {"search_terms": ["a"]}},
        {"tag_type": "genre", "tag_name": "Zouk", "synonyms": {"search_terms": ["a\0"]}},
    ],
)
def test_invalid_synonyms_are_refused(client: httpx.Client, owner: Connection, body: dict[str, Any]) -> None:
    add_tag(owner, "Zouk")
    assert client.post("/api/synonyms", json=body, headers=KEYS).status_code == 422
    assert owner.execute("select count(*) from mir_synonyms").fetchone() == (0,)


def test_missing_synonyms_are_not_found(client: httpx.Client) -> None:
    assert write(client, "Zouk").status_code == 404
    assert client.put("/api/synonyms/7", json={"confidence": 1}, headers=KEYS).status_code == 404
    assert client.delete("/api/synonyms/7", headers=KEYS).status_code == 404
    assert client.get("/api/synonyms/genre/Zouk").status_code == 404
    assert client.get("/api/synonyms/tempo/Zouk").status_code == 422


def test_a_tag_name_may_contain_a_slash(client: httpx.Client, owner: Connection) -> None:
    add_tag(owner, "R&B/Soul")
    assert write(client, "R&B/Soul").status_code == 201
    assert client.get("/api/synonyms/genre/R%26B%2FSoul").json()["tag_name"] == "R&B/Soul"
    assert client.get("/api/synonyms/genre/r&b/soul").json()["tag_name"] == "R&B/Soul"


def test_french_finds_english_tags_and_english_finds_french_ones(client: httpx.Client, owner: Connection) -> None:
    add_tag(owner, "Melancholic")
    add_tag(owner, "Chanson réaliste")
    write(
        client,
        "Melancholic",
        more={"translations": {"fr": ["mélancolique", "chansons tristes"], "en": ["wistful songs"]}},
    )
    write(
        client,
        "Chanson réaliste",
        more={"translations": {"fr": ["chanson des rues"], "en": ["street ballads", "torch singer"]}},
    )
    for query in ("mélancolique", "MELANCOLIQUES", "triste", "triste mélancolie", "wistful song"):
        assert by_full_text(client, query)[0] == "Melancholic", query
    for query in ("street ballad", "torch singers", "realiste", "rue"):
        assert by_full_text(client, query)[0] == "Chanson réaliste", query


def test_three_routes_find_the_same_synonyms_with_the_same_scores(client: httpx.Client, owner: Connection) -> None:
    add_tag(owner, "Zouk")
    write(client, "Zouk", "caribbean dance")
    by_url = client.get("/api/synonyms/search", params={"q": "caribbean", "tag_type": "genre", "limit": 1}).json()
    assert (by_url["query"], by_url["total"], by_url["results"][0]["tag_name"]) == ("caribbean", 1, "Zouk")
    assert search(client, "caribbean", tag_type="genre", limit=1) == by_url["results"]

    (hit,) = by_url["results"]
    body = {"query": "caribbean", "filter": {"tag_type": "genre"}}
    (general,) = client.post("/api/search/mir_synonyms", json=body).json()["hits"]
    assert hit.items() >= {**general, "id": int(general["id"])}.items()
    older = {
        "fts_score": "full_text_score",
        "fts_rank": "full_text_rank",
        "vector_score": "semantic_score",
        "vector_rank": "semantic_rank",
        "hybrid_score": "score",
    }
    assert {name: hit[name] for name in older} == {name: hit[standard] for name, standard in older.items()}
    assert all(hit[name] for name in older), "each of them says something"


def test_without_the_provider_synonym_search_is_full_text_only_and_its_answer_is_not_kept(
    client: httpx.Client, owner: Connection, provider: FakeProvider
) -> None:
    from shared.errors import ProviderRejected

    add_tag(owner, "Zouk")
    write(client, "Zouk", "caribbean dance")
    provider.wire.down = ProviderRejected("away")
    body = {"query": "caribbean"}
    answers = [client.post("/api/mir/synonyms/search", json=body).json() for _ in range(2)]
    assert [(one["degraded"], one["cached"], one["total"]) for one in answers] == [(True, False, 1)] * 2
    provider.wire.down = None
    assert client.post("/api/mir/synonyms/search", json=body).json()["degraded"] is False
