"""Synonyms over real HTTP: from a tag that is written to words that find it, and back to nothing."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from functions.edge.process import Process
from functions.worker import run
from shared.database.postgres import PostgresDatabase
from shared.services.tasks import SYNONYMS_TASK_NAME
from tests.conftest import Connection
from tests.fake_provider import FakeProvider
from tests.functions.conftest import JWT_SECRET, KEYS, WEBHOOK_SECRET, Serve, make_settings, token
from tests.functions.test_tasks import wait_for
from tests.protocol_server import ProtocolServer

HOOK = {"x-webhook-secret": WEBHOOK_SECRET}


@pytest.fixture
def chat() -> Iterator[ProtocolServer]:
    with ProtocolServer() as running:
        yield running


@pytest.fixture
def writing(serve: Serve, chat: ProtocolServer) -> httpx.Client:
    """A client of a server that has a generator."""
    return serve(generation_provider="ollama", ollama_url=chat.url)


def add_tag(owner: Connection, name: str, table: str = "genre_tags") -> int:
    row = owner.execute(f"insert into {table} (name) values (%s) returning id", [name]).fetchone()
    assert row is not None
    return int(str(row[0]))


def deliver(
    client: httpx.Client, kind: str, tag_id: int, name: str, *, old: str | None = None, table: str = "genre_tags"
) -> Any:
    """As Supabase's database webhook would."""
    record = {"id": tag_id, "name": name, "description": "", "created_at": "2026-11-21T00:00:00+00:00"}
    old_record = {**record, "name": old} if old else None
    body = {"type": kind, "table": table, "schema": "public", "record": record, "old_record": old_record}
    answer = client.post("/api/webhooks/synonyms", json=body, headers=HOOK)
    assert answer.status_code == 202, answer.text
    return answer.json()


def wait_until_asked(chat: ProtocolServer) -> None:
    """Until the generator has its first question."""
    deadline = time.monotonic() + 15
    while not chat.calls:
        assert time.monotonic() < deadline, "nobody asked the generator"
        time.sleep(0.01)


def search(client: httpx.Client, query: str, **body: Any) -> list[dict[str, Any]]:
    answer = client.post("/api/mir/synonyms/search", json={"query": query, **body})
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def by_words(client: httpx.Client, query: str, **body: Any) -> list[str]:
    """The names of tags that a query's words find."""
    return [hit["tag_name"] for hit in search(client, query, **body) if hit["fts_rank"] is not None]


def write(client: httpx.Client, name: str, *terms: str, **body: Any) -> httpx.Response:
    synonyms = {"search_terms": [name, *terms], **body.pop("more", {})}
    given = {"tag_type": "genre", "tag_name": name, "synonyms": synonyms, **body}
    return client.post("/api/synonyms", json=given, headers=KEYS)


# The whole path


def test_a_new_genre_is_soon_found_by_a_word_that_is_not_in_its_name(
    writing: httpx.Client, chat: ProtocolServer, owner: Connection
) -> None:
    chat.vocabulary["Zouk"] = ["caribbean love dance", "antilles party", "creole groove", "island slow dance"]
    tag_id = add_tag(owner, "Zouk")
    accepted = deliver(writing, "INSERT", tag_id, "Zouk")
    assert (accepted["task_name"], accepted["status"]) == ("generate-synonyms", "queued")
    task = wait_for(writing, accepted["task_id"], "completed")
    assert (task["task_name"], task["model"]) == ("generate-synonyms", "ollama:llama3.2:1b")
    assert (task["result"]["processed"], task["result"]["embedded"], task["result"]["failed"]) == (1, 1, 0)

    (hit,) = search(writing, "caribbean")
    assert (hit["tag_type"], hit["tag_id"], hit["tag_name"], hit["source"]) == ("genre", tag_id, "Zouk", "generated")
    assert hit["fts_score"] > 0
    assert hit["vector_score"] > 0, "it has its vector as well"
    assert hit["hybrid_score"] == pytest.approx(0.3 * hit["fts_score"] + 0.7 * hit["vector_score"])
    assert search(writing, "caribbean", tag_type="mood") == []
    found = writing.get("/api/synonyms/genre/zouk").json()
    assert found["synonyms"]["search_terms"][1] == "caribbean love dance"


def test_a_renamed_genre_is_written_anew_and_its_old_words_find_nothing(
    writing: httpx.Client, chat: ProtocolServer, owner: Connection
) -> None:
    chat.vocabulary["Zouk"] = ["caribbean dance", "b", "c", "d"]
    chat.vocabulary["Polka"] = ["bohemian hop", "b", "c", "d"]
    tag_id = add_tag(owner, "Zouk")
    wait_for(writing, deliver(writing, "INSERT", tag_id, "Zouk")["task_id"], "completed")
    assert by_words(writing, "caribbean") == ["Zouk"]

    owner.execute("update genre_tags set name = 'Polka' where id = %s", [tag_id])
    assert search(writing, "caribbean") == [], "before the webhook has come"
    assert writing.get("/api/synonyms/genre/Zouk").status_code == 404
    assert writing.get("/api/synonyms/genre/Polka").status_code == 404
    wait_for(writing, deliver(writing, "UPDATE", tag_id, "Polka", old="Zouk")["task_id"], "completed")
    assert by_words(writing, "bohemian") == ["Polka"]
    assert by_words(writing, "caribbean zouk") == []


def test_a_webhook_that_comes_twice_or_late_does_no_harm(
    writing: httpx.Client, chat: ProtocolServer, owner: Connection
) -> None:
    tag_id = add_tag(owner, "Zouk")
    wait_for(writing, deliver(writing, "INSERT", tag_id, "Zouk")["task_id"], "completed")
    assert deliver(writing, "INSERT", tag_id, "Zouk")["status"] == "skipped"
    owner.execute("delete from genre_tags where id = %s", [tag_id])
    assert deliver(writing, "UPDATE", tag_id, "Zouk", old="Souk")["status"] == "skipped"
    assert deliver(writing, "DELETE", tag_id, "Zouk")["status"] == "skipped"
    assert len(chat.calls) == 1


def test_moods_have_synonyms_of_their_own(writing: httpx.Client, chat: ProtocolServer, owner: Connection) -> None:
    chat.vocabulary["Jolly"] = ["merry", "gleeful", "sunny side", "laughing"]
    tag_id = add_tag(owner, "Jolly", "mood_tags")
    wait_for(writing, deliver(writing, "INSERT", tag_id, "Jolly", table="mood_tags")["task_id"], "completed")
    assert by_words(writing, "gleeful", tag_type="mood") == ["Jolly"]
    assert writing.get("/api/synonyms/mood/jolly").status_code == 200
    assert writing.get("/api/synonyms/genre/jolly").status_code == 404


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not one JSON object"),
        ('Sure! {"search_terms": []}', "not one JSON object"),
        ('{"terms": ["a"]}', "exactly the keys"),
        ('{"search_terms": [' + ", ".join(f'"t{number}"' for number in range(10_000)) + "]}", "longer than"),
        ("", "empty"),
    ],
    ids=["broken", "prose", "wrong keys", "10,000 terms", "nothing"],
)
def test_a_tag_that_only_garbage_is_written_for_is_parked_and_the_others_go_on(
    writing: httpx.Client, chat: ProtocolServer, owner: Connection, content: str, reason: str
) -> None:
    bad, good = add_tag(owner, "Bad"), add_tag(owner, "Good")
    chat.fail("chat", times=None, containing='"tag": "Bad"', content=content)
    accepted = writing.post("/api/synonyms/generate", headers=KEYS).json()
    task = wait_for(writing, accepted["task_id"], "completed")
    assert (task["result"]["processed"], task["result"]["embedded"], task["result"]["failed"]) == (2, 1, 1)
    assert owner.execute("select tag_id from mir_synonyms").fetchall() == [(good,)], "nothing partial is stored"
    state = writing.get("/api/synonyms/generation", headers=KEYS).json()
    (failure,) = state["failures"]
    assert (failure["tag_id"], failure["tag_name"], failure["attempts"]) == (bad, "Bad", 1)
    assert reason in failure["error"]
    assert state["coverage"] == [{"tag_type": "genre", "tags": 2, "active": 1, "without": 1, "waiting": 0, "failed": 1}]

    # Asked for again, it has all its chances again.
    chat.faults.clear()
    wait_for(writing, writing.post("/api/synonyms/generate", headers=KEYS).json()["task_id"], "completed")
    assert writing.get("/api/synonyms/genre/Bad").status_code == 200
    assert writing.post("/api/synonyms/generate", headers=KEYS).json()["status"] == "skipped"


def test_one_tag_is_written_again_and_its_neighbours_are_not(
    writing: httpx.Client, chat: ProtocolServer, owner: Connection
) -> None:
    zouk, polka = add_tag(owner, "Zouk"), add_tag(owner, "Polka")
    wait_for(writing, writing.post("/api/synonyms/generate", headers=KEYS).json()["task_id"], "completed")
    chat.vocabulary["Zouk"] = chat.vocabulary["Polka"] = ["written anew", "b", "c", "d"]
    body = {"tag_type": "genre", "tag_ids": [zouk], "force": True}
    accepted = writing.post("/api/synonyms/generate", json=body, headers=KEYS).json()
    assert accepted["message"].startswith("1 tags queued")
    wait_for(writing, accepted["task_id"], "completed")
    assert by_words(writing, "anew") == ["Zouk"]
    assert writing.get("/api/synonyms/genre/Polka").json()["tag_id"] == polka

    # An id alone names no tag: genres and moods have their own.
    refused = writing.post("/api/synonyms/generate", json={"tag_ids": [zouk], "force": True}, headers=KEYS)
    assert refused.status_code == 422
    assert "tag_type" in refused.json()["error"]["message"]


def test_a_generator_that_is_away_costs_no_tag_its_chances(serve: Serve, owner: Connection) -> None:
    client = serve(generation_provider="ollama", ollama_url="http://127.0.0.1:9")
    tag_id = add_tag(owner, "Zouk")
    task = wait_for(client, deliver(client, "INSERT", tag_id, "Zouk")["task_id"], "failed")
    assert "ollama serve" in task["error"]
    assert owner.execute("select attempts, leased_at, failed_at from embedding.synonym_queue").fetchall() == [
        (0, None, None)
    ]


def test_a_thousand_webhooks_make_one_run(writing: httpx.Client, chat: ProtocolServer, owner: Connection) -> None:
    chat.latency = 0.3
    first = deliver(writing, "INSERT", add_tag(owner, "first"), "first")
    wait_until_asked(chat)
    tasks = {deliver(writing, "INSERT", add_tag(owner, f"tag {n}"), f"tag {n}")["task_id"] for n in range(5)}
    assert len(tasks - {first["task_id"]}) == 1
    wait_for(writing, tasks.pop(), "completed")
    assert owner.execute("select count(*) from mir_synonyms").fetchone() == (6,)


# Low priority


def test_a_backfill_is_not_held_up_by_a_generator_that_thinks(
    writing: httpx.Client, chat: ProtocolServer, owner: Connection
) -> None:
    chat.latency = 3.0
    generation = deliver(writing, "INSERT", add_tag(owner, "Zouk"), "Zouk")
    wait_until_asked(chat)
    owner.execute("insert into music_knowledge (topic, content) select 't', n::text from generate_series(1, 50) n")
    started = time.monotonic()
    answer = writing.post("/api/tasks/generate-embeddings", json={"collection": "music_knowledge"}, headers=KEYS)
    task = wait_for(writing, answer.json()["task_id"], "completed")
    assert task["result"]["embedded"] == 50
    assert time.monotonic() - started < 2.0
    wait_for(writing, generation["task_id"], "completed")


def test_the_generator_rests_while_rows_are_embedded(
    writing: httpx.Client, chat: ProtocolServer, owner: Connection, provider: FakeProvider
) -> None:
    owner.execute("insert into music_knowledge (topic, content) values ('t', 'one')")
    gate = provider.wire.gate = threading.Event()
    provider.wire.arrived.clear()
    answer = writing.post("/api/tasks/generate-embeddings", json={"collection": "music_knowledge"}, headers=KEYS)
    assert provider.wire.arrived.wait(10)
    generation = deliver(writing, "INSERT", add_tag(owner, "Zouk"), "Zouk")
    time.sleep(1.5)
    assert chat.calls == []
    gate.set()
    provider.wire.gate = None
    wait_for(writing, answer.json()["task_id"], "completed")
    wait_for(writing, generation["task_id"], "completed")
    assert len(chat.calls) == 1


# By hand


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
    assert hit["vector_score"] > 0, "it is embedded at once"
    assert hit["confidence"] == pytest.approx(0.9)

    changed = client.put(
        f"/api/synonyms/{stored['id']}", json={"synonyms": {"search_terms": ["zouk", "antilles"]}}, headers=KEYS
    )
    assert changed.status_code == 200, changed.text
    assert by_words(client, "caribbean") == []
    assert by_words(client, "antilles") == ["Zouk"]

    gone = client.delete(f"/api/synonyms/{stored['id']}", headers=KEYS)
    assert (gone.status_code, gone.json()["is_active"]) == (200, False)
    assert search(client, "antilles") == []
    assert client.get("/api/synonyms/genre/Zouk").status_code == 404

    back = client.put(f"/api/synonyms/{stored['id']}", json={"is_active": True}, headers=KEYS)
    assert back.status_code == 200
    assert by_words(client, "antilles") == ["Zouk"]


def test_what_is_there_is_not_overwritten_and_what_was_switched_off_is_revived(
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
    assert by_words(client, "two") == ["Zouk"]


def test_an_edit_of_what_somebody_else_has_changed_is_refused(client: httpx.Client, owner: Connection) -> None:
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
def test_what_is_no_set_of_synonyms_is_refused(client: httpx.Client, owner: Connection, body: dict[str, Any]) -> None:
    add_tag(owner, "Zouk")
    assert client.post("/api/synonyms", json=body, headers=KEYS).status_code == 422
    assert owner.execute("select count(*) from mir_synonyms").fetchone() == (0,)


def test_what_is_not_there_is_not_found(client: httpx.Client) -> None:
    assert write(client, "Zouk").status_code == 404
    assert client.put("/api/synonyms/7", json={"confidence": 1}, headers=KEYS).status_code == 404
    assert client.delete("/api/synonyms/7", headers=KEYS).status_code == 404
    assert client.get("/api/synonyms/genre/Zouk").status_code == 404
    assert client.get("/api/synonyms/tempo/Zouk").status_code == 422


def test_a_name_may_hold_a_slash(client: httpx.Client, owner: Connection) -> None:
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
        assert by_words(client, query)[0] == "Melancholic", query
    for query in ("street ballad", "torch singers", "realiste", "rue"):
        assert by_words(client, query)[0] == "Chanson réaliste", query


def test_synonyms_can_be_searched_by_a_link(client: httpx.Client, owner: Connection) -> None:
    add_tag(owner, "Zouk")
    write(client, "Zouk", "caribbean dance")
    answer = client.get("/api/synonyms/search", params={"q": "caribbean", "tag_type": "genre", "limit": 1}).json()
    assert (answer["query"], answer["total"], answer["results"][0]["tag_name"]) == ("caribbean", 1, "Zouk")
    general = client.post(
        "/api/search/mir_synonyms", json={"query": "caribbean", "filter": {"tag_type": "genre"}}
    ).json()
    assert general["hits"][0]["tag_name"] == "Zouk"


def test_when_the_embedder_is_down_the_words_still_answer_and_nothing_of_it_is_kept(
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


# The cache


def ask(client: httpx.Client, query: str, **headers: str) -> tuple[bool, list[str]]:
    answer = client.post("/api/mir/synonyms/search", json={"query": query}, headers=headers).json()
    return answer["cached"], [hit["tag_name"] for hit in answer["results"]]


def test_an_answer_is_kept_until_something_is_written(client: httpx.Client, owner: Connection) -> None:
    tag_id = add_tag(owner, "Zouk")
    write(client, "Zouk", "caribbean dance")
    assert ask(client, "caribbean") == (False, ["Zouk"])
    assert ask(client, "caribbean") == (True, ["Zouk"])
    writes = [
        ("update mir_synonyms set is_active = false where tag_id = %s", []),
        ("update mir_synonyms set is_active = true where tag_id = %s", ["Zouk"]),
        ("update genre_tags set name = 'zouk!' where id = %s", ["zouk!"]),
        ("update genre_tags set name = 'Polka' where id = %s", []),
        ("delete from genre_tags where id = %s", []),
    ]
    for statement, expected in writes:
        owner.execute(statement, [tag_id])
        assert ask(client, "caribbean") == (False, expected), statement


def test_an_answer_made_while_somebody_writes_is_not_kept_beyond_the_commit(
    client: httpx.Client, owner: Connection, connect: Any
) -> None:
    tag_id = add_tag(owner, "Zouk")
    write(client, "Zouk", "caribbean dance")
    # The later of two writers ends first: a counter would have missed the earlier one.
    slow = connect(autocommit=False)
    slow.execute("update mir_synonyms set is_active = false where tag_id = %s", [tag_id])
    add_tag(owner, "Other")
    assert ask(client, "caribbean") == (False, ["Zouk"])
    assert ask(client, "caribbean") == (True, ["Zouk"])
    slow.commit()
    assert ask(client, "caribbean") == (False, [])


def test_callers_do_not_see_each_others_answers(client: httpx.Client, owner: Connection) -> None:
    owner.execute('drop policy "everyone reads" on mir_synonyms')
    owner.execute(
        "create policy mine on mir_synonyms for select to anon, authenticated using ((auth.jwt() ->> 'sub') = 'her')"
    )
    add_tag(owner, "Zouk")
    write(client, "Zouk", "caribbean dance")
    hers = {"Authorization": f"Bearer {token(secret=JWT_SECRET, sub='her')}"}
    his = {"Authorization": f"Bearer {token(secret=JWT_SECRET, sub='his')}"}
    assert ask(client, "caribbean", **hers) == (False, ["Zouk"])
    assert ask(client, "caribbean", **his) == (False, [])
    assert ask(client, "caribbean") == (False, [])
    assert client.get("/api/synonyms/genre/Zouk", headers=hers).status_code == 200
    assert client.get("/api/synonyms/genre/Zouk", headers=his).status_code == 404


# Who may


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/synonyms"),
        ("PUT", "/api/synonyms/1"),
        ("DELETE", "/api/synonyms/1"),
        ("POST", "/api/synonyms/generate"),
        ("GET", "/api/synonyms/generation"),
        ("POST", "/api/webhooks/synonyms"),
    ],
)
def test_writing_takes_a_key(client: httpx.Client, method: str, path: str) -> None:
    assert client.request(method, path, json={}).status_code == 401
    assert client.request(method, path, json={}, headers={"Authorization": f"Bearer {token()}"}).status_code == 401


@pytest.mark.parametrize(
    "changes", [{"table": "users"}, {"schema": "private"}, {"record": None}, {"record": {"id": "x"}}, {"type": "MERGE"}]
)
def test_a_webhook_about_anything_else_is_refused(writing: httpx.Client, changes: dict[str, Any]) -> None:
    body = {"type": "INSERT", "table": "genre_tags", "schema": "public", "record": {"id": 1, "name": "a"}, **changes}
    assert writing.post("/api/webhooks/synonyms", json=body, headers=HOOK).status_code == 422


# On Lambda


class _Context:
    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def test_on_lambda_the_worker_writes_them(
    database: PostgresDatabase, provider: FakeProvider, chat: ProtocolServer, owner: Connection
) -> None:
    settings = make_settings(generation_provider="ollama", ollama_url=chat.url)
    process = Process(settings, database=database, provider=provider)
    add_tag(owner, "Zouk")
    process.synonym_store.request_synonyms()
    run_id = process.synonym_store.record_generation_run(None, None, "queued")
    event = {"task_id": run_id, "name": SYNONYMS_TASK_NAME, "collection": None, "batch_size": 50}
    assert run(event, _Context(), process)["embedded"] == 1
    assert process.tasks.get(run_id)["status"] == "completed"
    ended = datetime.fromisoformat(process.tasks.get(run_id)["finished_at"])
    assert (datetime.now(UTC) - ended).total_seconds() < 60
    process.close()
