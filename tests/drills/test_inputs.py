"""What no well-meaning caller sends, to every SQL function and every route: refused in a clear word, and nothing is stored.

SQL functions answer with SQLSTATE class 22, or with one of the codes that CODES explains; routes and adapters with a 4xx.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace

import httpx
import hypothesis
import orjson
import psycopg
import pytest
from hypothesis import strategies as st
from pydantic import SecretStr

from functions.edge.middleware import MAX_BODY_BYTES
from functions.edge.process import Process
from shared.database.base import Database
from shared.database.postgres import PostgresDatabase
from shared.errors import AppError
from tests.database.rows import Connection
from tests.drills.inputs_functions import FILTERS, Function, filled, public_functions, valid, write_as_a_user
from tests.drills.inputs_hostile import BY_TYPE, FIELDS, HUGE_TEXT, SQL, UNSTORABLE, hostile, spoiled
from tests.drills.inputs_routes import Operation, Place, as_json, operations
from tests.drills.inputs_rows import fingerprint, furnish, unsound
from tests.fake_provider import FakeProvider
from tests.functions.conftest import API_KEY, WEBHOOK_SECRET, make_settings, serving

LONG = os.environ.get("TONNETZ_DRILL") == "long"
EXAMPLES = 400 if LONG else 30

CODES = {
    "22": "a value of the wrong form or outside its bounds",
    "P0002": "no such collection, tag, row or synonyms (404)",
    "23505": "it is there already, or was changed meanwhile (409)",
    "55000": "not now: no model yet, another model, no pg_net",
    "54": "larger than PostgreSQL itself can take",
}
# Its arguments name a table and a language: PostgreSQL refuses unknown ones before the function begins.
DEFINITION_CODES = {"track_embeddings": ("42", "23502")}

settings = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=not LONG,
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.fixture
def furnished(owner: Connection, database: PostgresDatabase, provider: FakeProvider) -> Connection:
    """The owner's connection to a database with something of everything in it."""
    furnish(owner, database, provider)
    write_as_a_user(owner)
    assert unsound(owner) == []
    return owner


# SQL functions


def judge(connection: Connection, function: Function, given: dict[str, object]) -> str | None:
    """Make one call as each role that may make it, and undo it; what is wrong with how it was answered."""
    for role in function.callers:
        if problem := judge_as(connection, role, function, given):
            return problem if role == "service_role" else f"as {role}: {problem}"
    return None


def judge_as(connection: Connection, role: str, function: Function, given: dict[str, object]) -> str | None:
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(f"set local role {role}")
            answer = "".join(str(row[0]) for row in connection.execute(function.query(given), given))
            connection.execute("reset role")
            left = unsound(connection)
    except psycopg.Error as error:
        state = error.sqlstate or type(error).__name__
        if state.startswith((*CODES, *DEFINITION_CODES.get(function.name, ()))):
            return None
        return f"{state} {error.diag.message_primary}"
    if '"NaN"' in answer or 'Infinity"' in answer:
        return "answered with numbers that are none"
    return "; ".join(left) or None


def describe(function: Function, changed: str, value: object, problem: str) -> str:
    return f"{function.name}({changed} => {str(value)[:60]!r}): {problem}"


def test_every_function_refuses_each_hostile_value_in_each_argument(furnished: Connection) -> None:
    before = fingerprint(furnished)
    problems, calls = [], 0
    for function in public_functions(furnished):
        fine = valid(function)
        for argument in function.arguments:
            values = [None, *BY_TYPE[argument.kind]]
            if argument.kind == "jsonb":
                values += [json.dumps(value) for value in spoiled(json.loads(str(fine[argument.name])))]
            if argument.name == "filter":
                values += FILTERS if LONG else FILTERS[::5]
            for value in values:
                calls += 1
                problem = judge(furnished, function, {**fine, argument.name: value})
                if problem:
                    problems.append(describe(function, argument.name, value, problem))
    assert not problems, "\n".join(problems)
    assert calls > 4000
    assert fingerprint(furnished) == before


def test_every_function_accepts_what_is_valid(furnished: Connection) -> None:
    """Else the test above would see nothing but the first refusal of each."""
    refused, called = {}, set()
    for function in public_functions(furnished):
        for role in function.callers:
            called.add(role)
            try:
                with furnished.transaction(force_rollback=True):
                    furnished.execute(f"set local role {role}")
                    furnished.execute(function.query(valid(function)), valid(function))
            except psycopg.Error as error:
                refused[role, function.name] = error.sqlstate
    assert refused == {("service_role", "create_embedding_webhook"): "55000"}, "it alone wants Supabase's pg_net"
    assert called == {"service_role", "anon"}


def hold(connection: Connection, function: Function) -> None:
    """Let hypothesis call it with whatever it thinks of, in several arguments at once."""
    fine = valid(function)
    changes = {argument.name: hostile(argument.kind) for argument in function.arguments}
    if "filter" in changes:
        changes["filter"] |= st.sampled_from(FILTERS)

    @settings
    @hypothesis.given(st.fixed_dictionaries({}, optional=changes))
    def check(changed: dict[str, object]) -> None:
        problem = judge(connection, function, {**fine, **changed})
        assert problem is None, f"{function.name}: {problem}"

    check()


def test_hypothesis_finds_no_combination_that_a_function_cannot_refuse(furnished: Connection) -> None:
    before = fingerprint(furnished)
    for function in public_functions(furnished):
        if function.arguments:
            hold(furnished, function)
    assert fingerprint(furnished) == before


# Both adapters


@pytest.fixture(params=["postgres", pytest.param("supabase", marks=pytest.mark.postgrest)])
def adapter(request: pytest.FixtureRequest, database_url: SecretStr) -> Iterator[Database]:
    """Each adapter in turn."""
    if request.param == "supabase":
        yield request.getfixturevalue("supabase_database")
        return
    with PostgresDatabase(database_url) as made:
        yield made


def ask(adapter: Database, function: Function, given: dict[str, object]) -> AppError | None:
    """Call as the program does; its error."""
    kinds = {argument.name: argument.kind for argument in function.arguments}
    arguments = {
        name: json.loads(value) if kinds[name] == "jsonb" and isinstance(value, str) else value
        for name, value in given.items()
    }
    try:
        adapter.call(function.name, arguments)
    except AppError as error:
        return error
    return None


def test_what_postgresql_cannot_hold_is_refused_by_both_adapters(furnished: Connection, adapter: Database) -> None:
    before = fingerprint(furnished)
    problems = []
    for function in public_functions(furnished):
        fine = valid(function)
        for argument in function.arguments:
            if argument.kind in ("text", "text[]", "jsonb"):
                for bad in UNSTORABLE:
                    value: object = bad
                    if argument.kind == "text[]":
                        value = [bad]
                    elif argument.kind == "jsonb":
                        value = json.dumps([{"row_id": bad, "external_id": bad, "title": bad, bad: bad}])
                    error = ask(adapter, function, {**fine, argument.name: value})
                    if error is None or not 400 <= error.status < 500:
                        problems.append(describe(function, argument.name, value, repr(error)))
    assert not problems, "\n".join(problems)
    assert fingerprint(furnished) == before


def huge(function: Function) -> Iterator[tuple[str, object]]:
    """An argument and a value for it that holds ten megabytes of text, in each place; in the short form in one of each type."""
    fine = valid(function)
    done: set[str] = set()
    for argument in function.arguments:
        # A name of a collection is looked up in one and the same way.
        if argument.name == "collection" or (argument.kind in done and not LONG):
            continue
        values: list[object] = []
        if argument.kind == "text":
            values = [HUGE_TEXT]
        elif argument.kind == "text[]":
            values = [[HUGE_TEXT]]
        elif argument.kind == "jsonb":
            values = [json.dumps(value) for value in filled(json.loads(str(fine[argument.name])), HUGE_TEXT)]
        if values:
            done.add(argument.kind)
        for value in values if LONG else values[-1:]:
            yield argument.name, value


def test_ten_megabytes_of_text_are_taken_or_refused_by_both_adapters(furnished: Connection, adapter: Database) -> None:
    before = fingerprint(furnished)
    problems, kinds = [], set()
    for function in public_functions(furnished):
        for name, value in huge(function):
            kinds.add(next(argument.kind for argument in function.arguments if argument.name == name))
            error = ask(adapter, function, {**valid(function), name: value})
            if error is not None and not 400 <= error.status < 500:
                problems.append(describe(function, name, value, repr(error)[:300]))
            if error is not None and fingerprint(furnished) != before:
                problems.append(f"{function.name}: refused, and something was stored")
            before = fingerprint(furnished)
    assert not problems, "\n".join(problems)
    assert kinds == {"text", "text[]", "jsonb"}
    assert unsound(furnished) == []


# Routes


class Server:
    """A running server over the furnished database, and the eyes of the database's owner."""

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
        """Send it; what is wrong with the answer, or with what it left behind."""
        try:
            answer = self.send(operation, url, body)
        except httpx.InvalidURL:
            return None
        problem = self._judge_answer(answer)
        if body is not None and len(body) > MAX_BODY_BYTES and answer.status_code != 413:
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
            # Strict: NaN and Infinity are no JSON, though Python reads them.
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
def server(furnished: Connection, database: PostgresDatabase, provider: FakeProvider) -> Iterator[Server]:
    # A task waits for rows that others hold, and nobody gives this one back.
    furnished.execute("update embedding.queue set leased_at = null, available_at = now() where leased_at is not null")
    process = Process(make_settings(), database=database, provider=provider, long_lived=True)
    with serving(process) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield Server(client, furnished)


def test_every_route_answers_the_request_that_is_valid(server: Server) -> None:
    """Else the tests below would see nothing but refusals of the frame."""
    refused = {}
    # Reading first: what the others write or switch off is another's to find.
    for operation in sorted(
        server.operations, key=lambda operation: (operation.method != "GET", operation.method == "DELETE")
    ):
        body = as_json(operation.body) if operation.has_body else None
        answer = server.send(operation, operation.url(operation.given), body)
        if answer.status_code >= 400:
            refused[f"{operation.method} {operation.path}"] = f"{answer.status_code} {answer.text}"
    for name, why in (("GET /api/tasks/{task_id}", "404"), ("POST /api/synonyms/generate", "422")):
        assert refused.pop(name, "").startswith(why), "there is no such task, and nobody to write synonyms"
    assert refused == {}


DEEP = b"[" * 100_000 + b"]" * 100_000
# Bodies that are no valid JSON, or no JSON that anybody would send.
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
    """Every hostile value in every place of a request: what it is, the URL and the body."""
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
            # A place may be gone with an earlier change.
            with contextlib.suppress(KeyError, IndexError, TypeError):
                changed.body = changed.with_field(place, value)
        problem = server.judge(operation, operation.url(operation.given), as_json(changed.body))
        assert problem is None, f"{operation.method} {operation.path}: {problem}"

    check()


def test_hypothesis_finds_no_body_that_a_route_cannot_refuse(server: Server) -> None:
    for operation in server.operations:
        if operation.has_body:
            hold_route(server, operation)
