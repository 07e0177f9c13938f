"""Tests embedding rows by key: upserts and webhooks."""

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding import rows as upsert_module
from shared.embedding.collection import Collection
from shared.errors import ProviderUnavailable
from shared.models import EmbeddingModel
from tests.conftest import Connection
from tests.fake_provider import FakeProvider
from tests.functions.conftest import WEBHOOK_SECRET, Insert

HOOK = {"x-webhook-secret": WEBHOOK_SECRET}


@pytest.fixture
def state(owner: Connection) -> Callable[[str], tuple[Any, ...]]:
    """(has a vector, is queued, is leased, is failed) of a row."""

    def read(row_id: str) -> tuple[Any, ...]:
        row = owner.execute(
            """select embedding is not null, q.row_id is not null, q.leased_at is not null, q.failed_at is not null
               from public.music_knowledge k left join embedding.queue q on q.row_id = k.id::text where k.id = %s""",
            [row_id],
        ).fetchone()
        assert row is not None
        return row

    return read


DONE, PENDING, FAILED = (True, False, False, False), (False, True, False, False), (False, True, False, True)


def upsert(client: httpx.Client, *rows: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/api/upsert-embeddings", json={"rows": list(rows)})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_exactly_the_named_rows_are_embedded(
    keyed: httpx.Client, insert: Insert, state: Callable[[str], tuple[Any, ...]]
) -> None:
    rows = [insert(f"text {number}") for number in range(5)]
    answer = upsert(keyed, {"id": rows[1]}, {"id": rows[3].upper()})
    assert answer == {
        "success": True,
        "processed": 2,
        "updated": 2,
        "failed": [],
        "message": "2 of 2 rows have their vector, 2 of them new",
    }
    assert [state(row) for row in rows] == [PENDING, DONE, PENDING, DONE, PENDING]


def test_a_row_that_has_its_vector_costs_nothing(keyed: httpx.Client, insert: Insert, provider: FakeProvider) -> None:
    row = insert("a harp")
    upsert(keyed, {"id": row})
    calls = len(provider.wire.requests)
    assert upsert(keyed, {"id": row})["updated"] == 0
    # The vector of an equal text in another row costs nothing either.
    assert upsert(keyed, {"id": insert("a harp")})["updated"] == 1
    assert len(provider.wire.requests) == calls


def test_equal_texts_of_one_request_are_sent_once(keyed: httpx.Client, insert: Insert, provider: FakeProvider) -> None:
    rows = [insert("the same") for _ in range(3)]
    assert upsert(keyed, *({"id": row} for row in rows))["updated"] == 3
    assert sum("the same" in text for text in provider.wire.texts) == 1


def test_rows_fail_one_by_one_with_their_reasons(
    keyed: httpx.Client,
    insert: Insert,
    owner: Connection,
    provider: FakeProvider,
    state: Callable[[str], tuple[Any, ...]],
) -> None:
    provider.wire.refuses.add("poison")
    good, poisoned, empty = insert("good"), insert("poison"), insert("gone")
    owner.execute("update public.music_knowledge set topic = '', category = '', content = '' where id = %s", [empty])
    unknown = str(uuid.uuid4())
    answer = upsert(keyed, *({"id": one} for one in (good, poisoned, empty, unknown, "not a uuid")))
    assert answer["success"] is False
    assert (answer["processed"], answer["updated"]) == (5, 1)
    reasons = {row["id"]: row["error"] for row in answer["failed"]}
    assert set(reasons) == {poisoned, empty, unknown, "not a uuid"}
    assert reasons[unknown] == reasons["not a uuid"] == "there is no such row"
    assert "no text" in reasons[empty]
    assert state(good) == DONE
    assert state(poisoned) == FAILED


def test_a_given_text_must_be_the_rows_text(
    keyed: httpx.Client, insert: Insert, provider: FakeProvider, state: Callable[[str], tuple[Any, ...]]
) -> None:
    mine, theirs = insert("mine"), insert("theirs")
    answer = upsert(keyed, {"id": mine, "text": "t\nc\nmine"}, {"id": theirs, "text": "t\nc\nanother"})
    assert [row["id"] for row in answer["failed"]] == [theirs]
    assert "another" not in answer["failed"][0]["error"]
    assert state(mine) == DONE
    # The row is not embedded, and the next worker can claim it.
    assert state(theirs) == PENDING
    assert not any("another" in text or "theirs" in text for text in provider.wire.texts)


def test_a_failed_row_is_tried_again_when_it_is_named(
    keyed: httpx.Client, insert: Insert, provider: FakeProvider, state: Callable[[str], tuple[Any, ...]]
) -> None:
    row = insert("poison")
    provider.wire.refuses.add("poison")
    upsert(keyed, {"id": row})
    assert state(row) == FAILED
    provider.wire.refuses.clear()
    assert upsert(keyed, {"id": row})["updated"] == 1


def test_a_row_written_with_triggers_disabled_is_embedded_by_key(
    keyed: httpx.Client, insert: Insert, owner: Connection, state: Callable[[str], tuple[Any, ...]]
) -> None:
    row = insert("a harp")
    owner.execute("delete from embedding.queue")
    upsert(keyed, {"id": row})
    assert state(row) == DONE


def test_a_row_leased_by_another_worker_is_waited_for(
    keyed: httpx.Client, insert: Insert, database: PostgresDatabase, provider: FakeProvider
) -> None:
    import numpy as np

    from tests.fake_provider import DIMENSIONS

    row = insert("a harp")
    other = Collection(database, "music_knowledge")
    other.register_embedding_model(provider.spec)
    (held,) = other.claim_embeddings(1, 300)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(upsert, keyed, {"id": row})
        threading.Event().wait(0.5)
        assert not answer.done()
        other.save_embeddings("fake", [held], np.eye(1, DIMENSIONS, dtype=np.float32))
        assert answer.result(10)["success"] is True
    assert not any("harp" in text for text in provider.wire.texts), "embedded twice"


def test_a_text_changed_during_its_provider_call_does_not_get_the_old_vector(
    keyed: httpx.Client,
    insert: Insert,
    owner: Connection,
    provider: FakeProvider,
    state: Callable[[str], tuple[Any, ...]],
) -> None:
    row, other = insert("before"), insert("another")
    gate = provider.wire.gate = threading.Event()
    provider.wire.arrived.clear()
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(upsert, keyed, {"id": row}, {"id": other})
        assert provider.wire.arrived.wait(10)
        owner.execute("update public.music_knowledge set content = 'after' where id = %s", [row])
        gate.set()
        body = answer.result(20)
    assert [failed["id"] for failed in body["failed"]] == [row]
    assert body["updated"] == 1
    assert state(row) == PENDING
    assert state(other) == DONE


def test_rows_are_released_when_no_text_can_be_embedded(
    keyed: httpx.Client, insert: Insert, provider: FakeProvider, state: Callable[[str], tuple[Any, ...]]
) -> None:
    row = insert("a harp")
    provider.wire.down = ProviderUnavailable("away")
    assert keyed.post("/api/upsert-embeddings", json={"rows": [{"id": row}]}).status_code == 503
    assert state(row) == PENDING


def test_a_row_whose_model_has_no_provider_is_an_error_of_the_settings(
    keyed: httpx.Client, insert: Insert, database: PostgresDatabase, provider: FakeProvider
) -> None:
    work = Collection(database, "music_knowledge")
    work.register_embedding_model(EmbeddingModel("another", "fake", 16), use=True)
    answer = keyed.post("/api/upsert-embeddings", json={"rows": [{"id": insert("a")}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "unknown_provider")
    assert not any("t\nc" in text for text in provider.wire.texts)


def test_an_untracked_collection_is_not_found(keyed: httpx.Client) -> None:
    answer = keyed.post("/api/upsert-embeddings", json={"rows": [{"id": "1"}], "collection": "nothing"})
    assert answer.status_code == 404


# Webhooks


def webhook(client: httpx.Client, kind: str, record: dict[str, Any] | None, **more: Any) -> httpx.Response:
    payload = {"type": kind, "table": "music_knowledge", "schema": "public", "record": record, "old_record": None}
    return client.post("/api/webhooks/embeddings", json={**payload, **more}, headers=HOOK)


def test_repeated_webhooks_embed_a_row_once(
    client: httpx.Client, insert: Insert, provider: FakeProvider, state: Callable[[str], tuple[Any, ...]]
) -> None:
    row = insert("a harp")
    record = {"id": row, "topic": "t", "content": "an older text", "embedding": None}
    assert webhook(client, "INSERT", record).json()["updated"] == 1
    assert webhook(client, "INSERT", record).json()["updated"] == 0
    assert webhook(client, "UPDATE", record, old_record=record).json()["updated"] == 0
    assert state(row) == DONE
    assert sum("harp" in text for text in provider.wire.texts) == 1
    assert not any("older" in text for text in provider.wire.texts)


def outcome(answer: httpx.Response) -> tuple[Any, ...]:
    """(success, processed, updated, failed rows, message)"""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return (
        body["success"], body["processed"], body["updated"], [row["id"] for row in body["failed"]], body["message"],
    )  # fmt: skip


def test_a_webhook_answers_with_the_state_of_its_row(
    client: httpx.Client,
    insert: Insert,
    owner: Connection,
    database: PostgresDatabase,
    provider: FakeProvider,
    state: Callable[[str], tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upsert_module, "PATIENCE_SECONDS", 0.0)
    new, empty, held, refused = insert("a harp"), insert("gone"), insert("a viola"), insert("poison")
    owner.execute("update public.music_knowledge set topic = '', category = '', content = '' where id = %s", [empty])
    provider.wire.refuses.add("poison")

    def tell(row: str) -> tuple[Any, ...]:
        return outcome(webhook(client, "UPDATE", {"id": row}))

    assert tell(new) == (True, 1, 1, [], "the row has a new vector")
    assert tell(new) == (True, 1, 0, [], "the row had its vector already")
    deleted = webhook(client, "DELETE", None, old_record={"id": new})
    assert outcome(deleted) == (True, 0, 0, [], "the row was deleted, and its vector with it")
    assert tell(str(uuid.uuid4())) == (True, 1, 0, [], "there is no such row")
    assert tell(empty) == (True, 1, 0, [], "the row has no text to embed")
    success, _, _, failed, message = tell(refused)
    assert (success, failed) == (False, [refused])
    assert message == "the row is not embedded: the provider refused the text"
    assert state(refused) == FAILED
    assert [named.state for named in Collection(database, "music_knowledge").claim_embedding_rows([held], 60)] == [
        "claimed"
    ]
    success, _, updated, failed, message = tell(held)
    assert (success, updated, failed) == (True, 0, [])
    assert message.startswith("another worker is embedding the row")


def test_a_webhook_reports_a_row_that_changed_during_its_provider_call(
    client: httpx.Client, insert: Insert, owner: Connection, provider: FakeProvider
) -> None:
    row = insert("before")
    gate = provider.wire.gate = threading.Event()
    provider.wire.arrived.clear()
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(webhook, client, "INSERT", {"id": row})
        assert provider.wire.arrived.wait(10)
        owner.execute("update public.music_knowledge set content = 'after' where id = %s", [row])
        gate.set()
        success, _, updated, failed, message = outcome(answer.result(20))
    assert (success, updated, failed) == (True, 0, [])
    assert "its new text is pending" in message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"table": "users"}, "users"),
        ({"schema": "private"}, "private.music_knowledge"),
        ({"record": {"topic": "t"}}, "record.id"),
        ({"record": {"id": None}}, "record.id"),
        ({"record": None}, "record.id"),
        ({"type": "TRUNCATE"}, "type"),
    ],
)
def test_an_invalid_webhook_is_refused(client: httpx.Client, changes: dict[str, Any], named: str) -> None:
    payload = {"type": "INSERT", "table": "music_knowledge", "schema": "public", "record": {"id": str(uuid.uuid4())}}
    answer = client.post("/api/webhooks/embeddings", json={**payload, **changes}, headers=HOOK)
    assert answer.status_code == 422
    assert named in answer.json()["error"]["message"]


def test_the_secret_is_taken_from_either_header_and_nothing_else(client: httpx.Client) -> None:
    body = {"type": "DELETE", "table": "music_knowledge", "schema": "public"}
    path = "/api/webhooks/embeddings"
    assert client.post(path, json=body).status_code == 401
    assert client.post(path, json=body, headers={"x-webhook-secret": "wrong"}).status_code == 401
    assert client.post(f"{path}?secret={WEBHOOK_SECRET}", json=body).status_code == 401
    assert client.post(path, json=body, headers={"Authorization": f"Bearer {WEBHOOK_SECRET}"}).status_code == 200


# The trigger that sends webhooks. Tables replace pg_net and the vault, which only Supabase has.

NET_AND_VAULT = """
create schema net;
create table net.sent (url text, body jsonb, headers jsonb);
create function net.http_post(url text, body jsonb, headers jsonb, timeout_milliseconds integer) returns bigint
  language sql as $f$ insert into net.sent values (url, body, headers); select 1::bigint $f$;
create schema vault;
create table vault.decrypted_secrets (name text, decrypted_secret text);
"""


def test_the_trigger_sends_a_webhook_only_for_rows_without_a_vector(
    client: httpx.Client, owner: Connection, insert: Insert, database: PostgresDatabase
) -> None:
    owner.execute(NET_AND_VAULT)
    owner.execute("insert into vault.decrypted_secrets values ('tonnetz_webhook_secret', %s)", [WEBHOOK_SECRET])
    address = f"{client.base_url}/api/webhooks/embeddings"
    database.call("create_embedding_webhook", {"collection": "music_knowledge", "url": address})

    def deliver() -> list[int]:
        sent = owner.execute("delete from net.sent returning url, body, headers").fetchall()
        return [client.post(str(url), json=body, headers=headers).json()["updated"] for url, body, headers in sent]

    row = insert("a harp")
    (body,) = owner.execute("select body from net.sent").fetchall()
    assert body[0]["record"] == {"id": row}, "the row's text stays in the database"
    assert deliver() == [1]
    assert deliver() == [], "a vector that arrives is not announced"
    owner.execute("update public.music_knowledge set confidence = 0.5 where id = %s", [row])
    assert deliver() == []
    owner.execute("update public.music_knowledge set content = 'a viola' where id = %s", [row])
    assert sum(deliver()) == 1
    owner.execute("drop trigger embedding_webhook on music_knowledge")
    insert("a drum")
    assert deliver() == []


def test_a_missing_secret_does_not_stop_a_write(owner: Connection, insert: Insert, database: PostgresDatabase) -> None:
    owner.execute(NET_AND_VAULT)
    database.call("create_embedding_webhook", {"collection": "music_knowledge", "url": "https://a.example"})
    insert("a harp")
    assert owner.execute("select count(*) from net.sent").fetchone() == (0,)


def test_without_pg_net_the_webhook_says_what_to_do(database: PostgresDatabase) -> None:
    from shared.errors import DatabaseRejected

    with pytest.raises(DatabaseRejected, match="pg_net"):
        database.call("create_embedding_webhook", {"collection": "music_knowledge", "url": "https://a.example"})
