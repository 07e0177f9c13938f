"""The handlers under the real awslambdaric client, against a small Runtime API."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from shared.database.postgres import PostgresDatabase
from shared.retry import REQUEST_RETRIES
from tests.conftest import Connection
from tests.functions.conftest import API_KEY, JWT_SECRET, KEYS, WEBHOOK_SECRET, token
from tests.lambda_events import answered, http_event, rest_event
from tests.lambda_runtime import Outcome, Start
from tests.protocol_server import ProtocolServer

EMBED = {"batch_id": "b", "chunks": [{"chunk_id": "c", "content": "a harp"}]}


@pytest.mark.parametrize("make", [http_event, rest_event], ids=["http api v2", "rest api v1"])
def test_embed_answers_cold_and_warm(start: Start, make: Any, openai_server: ProtocolServer) -> None:
    function = start("embed")
    for encoded in (False, True):
        status, body = answered(function.invoke(make("POST", "/embed", EMBED, KEYS, encoded=encoded)))
        assert status == 200
        assert body["vectors"][0]["chunk_id"] == "c"
        assert len(body["vectors"][0]["vector"]) == 1536
    assert len(openai_server.calls) == 2
    assert function.printed("embedding.batch_completed.v1", 2)


def test_embed_refuses_without_the_key_and_a_wrong_body(start: Start) -> None:
    function = start("embed")
    status, body = answered(function.invoke(http_event("POST", "/embed", EMBED)))
    assert (status, body["error"]["code"]) == (401, "unauthorized")
    status, body = answered(function.invoke(rest_event("POST", "/embed", {"batch_id": "b"}, KEYS)))
    assert (status, body["error"]["code"]) == (422, "invalid_request")


def test_without_a_key_in_its_settings_a_function_is_closed(start: Start) -> None:
    # A loopback server would accept this Host header.
    event = http_event("POST", "/embed", EMBED, {"host": "localhost"})
    status, body = answered(start("embed", FUNCTIONS_API_KEY="").invoke(event))
    assert status == 401
    assert "FUNCTIONS_API_KEY" in body["error"]["message"]


def test_wrong_settings_are_an_error_without_details(start: Start) -> None:
    function = start("search", EMBEDDING_PROVIDER="nonsense")
    status, body = answered(function.invoke(http_event("GET", "/api/search/music_knowledge", query="q=a")))
    assert (status, body["error"]["code"]) == (500, "configuration")
    assert "nonsense" not in json.dumps(body)
    assert function.printed("EMBEDDING_PROVIDER")


def test_search_runs_as_the_caller(start: Start, owner: Connection) -> None:
    owner.execute("insert into public.music_knowledge (topic, category) values ('harp', 'mine')")
    owner.execute('drop policy "everyone reads" on public.music_knowledge')
    owner.execute("create policy mine on public.music_knowledge for select to authenticated using (category = 'mine')")
    function = start("search")
    anon = answered(function.invoke(http_event("GET", "/api/search/music_knowledge", query="q=harp&limit=3")))
    assert (anon[0], anon[1]["hits"]) == (200, [])
    user = {"Authorization": f"Bearer {token()}"}
    status, body = answered(function.invoke(rest_event("POST", "/api/search/music_knowledge", {"query": "harp"}, user)))
    assert (status, [hit["topic"] for hit in body["hits"]]) == (200, ["harp"])


def test_the_upsert_webhook_coverage_and_health_handlers_answer(start: Start, owner: Connection) -> None:
    row = owner.execute("insert into public.music_knowledge (topic) values ('harp') returning id::text").fetchone()
    assert row is not None
    named = {"rows": [{"id": row[0]}]}
    assert (
        answered(start("upsert_embeddings").invoke(http_event("POST", "/api/upsert-embeddings", named, KEYS)))[1][
            "updated"
        ]
        == 1
    )
    event = {"type": "UPDATE", "table": "music_knowledge", "schema": "public", "record": {"id": row[0]}}
    secret = {"x-webhook-secret": WEBHOOK_SECRET}
    assert answered(start("webhooks").invoke(http_event("POST", "/api/webhooks/embeddings", event, secret)))[1][
        "success"
    ]
    collections = answered(start("collections").invoke(rest_event("GET", "/api/collections", None, KEYS)))[1][
        "collections"
    ]
    assert [one["embedded"] for one in collections if one["collection"] == "music_knowledge"] == [1]
    health = answered(start("health").invoke(http_event("GET", "/health")))
    assert (health[0], health[1]["database"], health[1]["model_loaded"]) == (200, "ok", False)


def test_the_openai_and_vectorization_handlers_embed_a_text(start: Start) -> None:
    body = {"model": "text-embedding-3-small", "input": ["a", "b"], "encoding_format": "base64"}
    status, answer = answered(start("openai_embeddings").invoke(http_event("POST", "/v1/embeddings", body, KEYS)))
    assert status == 200
    assert len(base64.b64decode(answer["data"][1]["embedding"])) == 4 * 1536
    status, answer = answered(
        start("vectorization").invoke(http_event("POST", "/api/vectorization/embed", {"text": "a"}, KEYS))
    )
    assert (status, answer["dimensions"]) == (200, 1536)


def upsert_event(row: str) -> dict[str, Any]:
    return http_event("POST", "/api/upsert-embeddings", {"rows": [{"id": row}]}, KEYS)


def insert_row(owner: Connection, topic: str = "harp") -> str:
    insert = "insert into public.music_knowledge (topic) values (%s) returning id::text"
    row = owner.execute(insert, [topic]).fetchone()
    assert row is not None
    return str(row[0])


def assert_unavailable(outcome: Outcome) -> None:
    status, body = answered(outcome)
    assert (status, body["error"]["code"]) == (503, "provider_unavailable")
    assert int(outcome.answer["headers"]["retry-after"]) >= 1


# A provider that is down


def test_an_outage_is_answered_at_once(start: Start, owner: Connection, openai_server: ProtocolServer) -> None:
    openai_server.fail("unavailable", times=None)
    for function, event in (
        ("embed", http_event("POST", "/embed", EMBED, KEYS)),
        ("upsert_embeddings", upsert_event(insert_row(owner))),
    ):
        openai_server.calls.clear()
        assert_unavailable(start(function).invoke(event))
        assert len(openai_server.calls) == REQUEST_RETRIES.max_attempts


def test_a_function_answers_and_releases_its_rows_before_its_time_is_up(
    start: Start, owner: Connection, openai_server: ProtocolServer
) -> None:
    embed, upsert = start("embed"), start("upsert_embeddings")
    # Start the function first, so that its start is not part of the measured time.
    assert answered(embed.invoke(http_event("POST", "/embed", EMBED, KEYS)))[0] == 200
    assert answered(upsert.invoke(upsert_event(insert_row(owner, "oboe"))))[0] == 200
    openai_server.calls.clear()
    openai_server.fail("slow", times=None, seconds=15)
    assert_unavailable(embed.invoke(http_event("POST", "/embed", EMBED, KEYS), seconds=5))
    assert_unavailable(upsert.invoke(upsert_event(insert_row(owner)), seconds=5))
    assert [call.status for call in openai_server.calls] == [0, 0], "the provider has not answered yet"
    assert owner.execute("select leased_at is null, attempts from embedding.queue").fetchall() == [(True, 0)]


class LambdaService:
    """Lambda's Invoke API; records the received invocations."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Any]] = []
        self.status = 202
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if "invocations" in self.path:
                    outer.sent.append((self.path, self.headers["X-Amz-Invocation-Type"], json.loads(body)))
                    answer = b""
                else:
                    outer.sent.append((self.headers["X-Amz-Target"], "", json.loads(body)))
                    secret = {
                        "FUNCTIONS_API_KEY": API_KEY, "SUPABASE_JWT_SECRET": JWT_SECRET, "LOG_LEVEL": "WARNING",
                    }  # fmt: skip
                    answer = json.dumps({"Name": "s", "SecretString": json.dumps(secret)}).encode()
                self.send_response(outer.status if "invocations" in self.path else 200)
                self.send_header("Content-Length", str(len(answer)))
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def environment(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.server.server_address[1]}"
        return {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_MAX_ATTEMPTS": "1",
        }  # fmt: skip


@pytest.fixture
def aws() -> Iterator[LambdaService]:
    service = LambdaService()
    thread = threading.Thread(target=service.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield service
    service.server.shutdown()
    service.server.server_close()
    thread.join()


# Tasks: one function accepts them, another one runs them.


def test_a_task_is_run_by_the_worker_function(
    start: Start, aws: LambdaService, owner: Connection, database: PostgresDatabase
) -> None:
    owner.execute("insert into public.music_knowledge (topic) select 'topic ' || n from generate_series(1, 7) n")
    tasks = start("tasks", TASK_FUNCTION="the-worker", **aws.environment)
    body = {"collection": "music_knowledge", "batch_size": 3}
    status, accepted = answered(tasks.invoke(http_event("POST", "/api/tasks/generate-embeddings", body, KEYS)))
    assert (status, accepted["status"]) == (202, "queued")
    ((path, kind, event),) = aws.sent
    assert path == "/2015-03-31/functions/the-worker/invocations"
    assert kind == "Event"
    assert (event["task_id"], event["collection"], event["batch_size"]) == (accepted["task_id"], "music_knowledge", 3)
    path = f"/api/tasks/{accepted['task_id']}"
    assert answered(tasks.invoke(http_event("GET", path, None, KEYS)))[1]["status"] == "queued"

    outcome = start("worker").invoke(event)
    assert outcome.error is None
    assert (outcome.answer["status"], outcome.answer["embedded"]) == ("completed", 7)
    status, task = answered(tasks.invoke(http_event("GET", path, None, KEYS)))
    assert (task["status"], task["result"]["embedded"]) == ("completed", 7)


def test_a_worker_that_cannot_be_invoked_fails_the_task_with_a_reason(
    start: Start, aws: LambdaService, owner: Connection
) -> None:
    aws.status = 403
    tasks = start("tasks", TASK_FUNCTION="the-worker", **aws.environment)
    status, body = answered(tasks.invoke(http_event("POST", "/api/tasks/generate-embeddings", {}, KEYS)))
    assert (status, body["error"]["code"]) == (500, "configuration")
    assert tasks.printed("TASK_FUNCTION")
    assert owner.execute("select status from embedding.runs").fetchall() == [("failed",)]


def test_each_webhook_to_a_warm_function_invokes_the_worker(
    start: Start, aws: LambdaService, owner: Connection
) -> None:
    hook = start("synonyms_webhook", GENERATION_PROVIDER="openai", TASK_FUNCTION="the-worker", **aws.environment)
    secret = {"x-webhook-secret": WEBHOOK_SECRET}
    accepted = []
    for number in (1, 2):
        owner.execute("insert into public.genre_tags (name) values (%s)", [f"genre {number}"])
        event = {"type": "INSERT", "table": "genre_tags", "schema": "public", "record": {"id": number}}
        status, body = answered(hook.invoke(http_event("POST", "/api/webhooks/synonyms", event, secret)))
        assert (status, body["status"]) == (202, "queued")
        accepted.append(body["task_id"])
    assert [event["task_id"] for _, _, event in aws.sent] == accepted
    assert {event["name"] for _, _, event in aws.sent} == {"generate-synonyms"}


def test_secrets_are_read_from_secrets_manager_when_a_function_starts(start: Start, aws: LambdaService) -> None:
    function = start(
        "embed", SECRETS_ARN="arn:aws:secretsmanager:eu-central-1:1:secret:s", FUNCTIONS_API_KEY="", **aws.environment
    )
    for _ in range(2):
        assert answered(function.invoke(http_event("POST", "/embed", EMBED, KEYS)))[0] == 200
    assert [target for target, _, _ in aws.sent] == ["secretsmanager.GetSecretValue"], "once, not at every call"
    assert answered(function.invoke(http_event("POST", "/embed", EMBED, {"Authorization": "Bearer wrong"})))[0] == 401
