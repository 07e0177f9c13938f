"""Sends hostile input to every route: it is refused with a clear error and nothing is stored."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import httpx
import hypothesis
import orjson
import pytest
from hypothesis import strategies as st

from functions.http.routes import LARGE_BODY
from functions.services import Services
from shared.database.postgres import PostgresDatabase
from tests.database.rows import Connection
from tests.drills.inputs_hostile import FIELDS, SQL, UNSTORABLE
from tests.drills.inputs_routes import Operation, Place, as_json, operations
from tests.drills.inputs_rows import fingerprint
from tests.drills.inputs_settings import settings
from tests.fake_provider import FakeProvider
from tests.functions.conftest import API_KEY, WEBHOOK_SECRET, make_settings, serving


class Server:
    """A running server over the filled database, and a connection of the database's owner."""

    def __init__(self, client: httpx.Client, owner: Connection) -> None:
        self._client = client
        self._owner = owner
        self.operations = operations(client.get("/openapi.json").json())
        self._seen = fingerprint(owner)
        self._catalogue = self._read_catalogue()

    def send(self, operation: Operation, url: str, body: bytes | None) -> httpx.Response:
        key = WEBHOOK_SECRET if "webhooks" in operation.path else API_KEY
        headers = {"authorization": f"Bearer {key}"}
        if body is not None:
            headers["content-type"] = "application/json"
        return self._client.request(operation.method, url, content=body, headers=headers)

    def judge(self, operation: Operation, url: str, body: bytes | None) -> str | None:
        """Send the request; returns what is wrong with the answer or with the rows afterwards."""
        try:
            answer = self.send(operation, url, body)
        except httpx.InvalidURL:
            return None
        problem = self._judge_answer(answer)
        if body is not None and len(body) > LARGE_BODY and answer.status_code != 413:
            problem = problem or f"took a body of {len(body)} bytes: {answer.status_code}"
        if answer.status_code == 202:
            self._wait_for_tasks()
        now = fingerprint(self._owner)
        if answer.status_code >= 400 and now != self._seen:
            problem = problem or f"answered {answer.status_code}, and something was stored"
        self._seen = now
        if self._read_catalogue() != self._catalogue:
            problem = "changed the database's own tables, functions or roles"
        return problem

    def _judge_answer(self, answer: httpx.Response) -> str | None:
        if answer.status_code >= 500:
            return f"{answer.status_code} {answer.text[:200]}"
        if answer.status_code >= 400:
            error = answer.json()["error"]
            if not error["code"] or not error["message"] or len(error["message"]) > 1000:
                return f"{answer.status_code} without a clear word: {answer.text[:200]}"
        elif "json" in answer.headers.get("content-type", ""):
            # Use a strict parser: NaN and Infinity are not valid JSON, but Python's parser accepts them.
            orjson.loads(answer.content)
        return None

    def _wait_for_tasks(self) -> None:
        for _ in range(600):
            left = self._owner.execute("select count(*) from embedding.runs where status in ('queued', 'running')")
            if left.fetchone() == (0,):
                return
            self._owner.execute("select pg_sleep(0.02)")
        raise AssertionError("a task did not end")

    def _read_catalogue(self) -> object:
        return self._owner.execute(
            "select (select count(*) from pg_class where relkind in ('r', 'v')), (select count(*) from pg_proc),"
            " (select md5(string_agg(concat(rolname, rolsuper), '' order by oid)) from pg_roles)"
        ).fetchone()


@pytest.fixture
def server(filled: Connection, database: PostgresDatabase, provider: FakeProvider) -> Iterator[Server]:
    # A task waits for leased rows, and no worker releases this one.
    filled.execute("update embedding.queue set leased_at = null, available_at = now() where leased_at is not null")
    services = Services(make_settings(), database=database, provider=provider, long_lived=True)
    with serving(services) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield Server(client, filled)


def test_every_route_answers_the_request_that_is_valid(server: Server) -> None:
    """Otherwise the tests below could only see errors of the middleware."""
    refused = {}
    # Reading routes first, because the others change rows that these read.
    for operation in sorted(
        server.operations, key=lambda operation: (operation.method != "GET", operation.method == "DELETE")
    ):
        body = as_json(operation.body) if operation.has_body else None
        answer = server.send(operation, operation.url(operation.given), body)
        if answer.status_code >= 400:
            refused[f"{operation.method} {operation.path}"] = f"{answer.status_code} {answer.text}"
    for name, why in (("GET /api/tasks/{task_id}", "404"), ("POST /api/synonyms/generate", "422")):
        assert refused.pop(name, "").startswith(why), "there is no such task, and no generator of synonyms"
    assert refused == {}


DEEP = b"[" * 100_000 + b"]" * 100_000
# Bodies that are invalid or unusual JSON.
RAW: tuple[bytes, ...] = (
    b"",
    b"{",
    b"null",
    b"\x00",
    b"\xff\xfe{}",
    b'"\xed\xa0\x80"',
    b"NaN",
    DEEP,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b"9" * 5000,
    b'{"query": ' + b"9" * 5000 + b"}",
    b'{"query": "' + b"x" * 10_000_000 + b'"}',
)


VALUES: tuple[object, ...] = (*FIELDS, *UNSTORABLE, float("nan"), float("inf"), -(2**31) - 1, 10**30, "x" * 5_000_000)


def tried(operation: Operation) -> Iterator[tuple[str, str, bytes | None]]:
    """Yield a request for every hostile value in every place: a description, the URL and the body."""
    fine_url = operation.url(operation.given)
    fine_body = as_json(operation.body) if operation.has_body else None
    for name in operation.places:
        for value in (*SQL, *UNSTORABLE, "", -1, 0, 2**63, 10**30, "NaN", "../../etc/passwd", "%00", "x" * 20_001):
            yield f"{name} = {value!r}"[:80], operation.url({**operation.given, name: value}), fine_body
    if operation.has_body:
        for place in operation.fields():
            for value in VALUES:
                yield f"{place} = {value!r}"[:80], fine_url, as_json(operation.with_field(place, value))
        for raw in RAW:
            yield f"body {raw[:40]!r}", fine_url, raw


@pytest.mark.drill
def test_every_route_refuses_each_hostile_value_in_each_place(server: Server) -> None:
    problems, requests = [], 0
    for operation in server.operations:
        for what, url, body in tried(operation):
            requests += 1
            problem = server.judge(operation, url, body)
            if problem:
                problems.append(f"{operation.method} {operation.path} with {what}: {problem}")
    assert not problems, "\n".join(problems[:50])
    assert requests > 1500


def hold_route(server: Server, operation: Operation) -> None:
    """Let hypothesis change a valid body in several places at once."""
    places = list(operation.fields())
    values: st.SearchStrategy[object] = st.recursive(
        st.sampled_from(VALUES[:-1]) | st.text() | st.integers() | st.floats(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )

    @settings
    @hypothesis.given(st.lists(st.tuples(st.sampled_from(places), values), min_size=1, max_size=3))
    def check(changes: list[tuple[Place, object]]) -> None:
        changed = replace(operation)
        for place, value in changes:
            # An earlier change may have removed this place.
            with contextlib.suppress(KeyError, IndexError, TypeError):
                changed.body = changed.with_field(place, value)
        problem = server.judge(operation, operation.url(operation.given), as_json(changed.body))
        assert problem is None, f"{operation.method} {operation.path}: {problem}"

    check()


@pytest.mark.drill
def test_hypothesis_finds_no_body_that_a_route_cannot_refuse(server: Server) -> None:
    for operation in server.operations:
        if operation.has_body:
            hold_route(server, operation)
