"""Sends hostile input to every SQL function and every route: it is refused with a clear error and nothing is stored.

SQL functions answer with SQLSTATE class 22, or with one of the codes that CODES explains; routes and adapters with a 4xx.
"""

import json
from collections.abc import Iterator

import hypothesis
import psycopg
import pytest
from hypothesis import strategies as st
from pydantic import SecretStr

from shared.database.base import Database
from shared.database.postgres import PostgresDatabase
from shared.errors import AppError
from tests.database.rows import Connection
from tests.drills.inputs_functions import FILTERS, Function, filled, public_functions, valid
from tests.drills.inputs_hostile import BY_TYPE, HUGE_TEXT, UNSTORABLE, hostile, spoiled
from tests.drills.inputs_rows import fingerprint, invalid_states
from tests.drills.inputs_settings import LONG, settings

CODES = {
    "22": "a value of the wrong form or outside its bounds",
    "P0002": "no such collection, tag, row or synonyms (404)",
    "23505": "it exists already, or was changed in the meantime (409)",
    "55000": "not now: no model yet, another model, no pg_net",
    "54": "larger than PostgreSQL itself can take",
}


# The arguments of this function name a table and a language. PostgreSQL refuses unknown names before the function begins.
DEFINITION_CODES = {"track_embeddings": ("42", "23502")}


def judge(connection: Connection, function: Function, given: dict[str, object]) -> str | None:
    """Make one call as each role that may make it, and roll it back; returns what is wrong with the answer."""
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
            left = invalid_states(connection)
    except psycopg.Error as error:
        state = error.sqlstate or type(error).__name__
        if state.startswith((*CODES, *DEFINITION_CODES.get(function.name, ()))):
            return None
        # The name of a constraint is the error that the caller reads; a missing value is named by its column.
        if state == "23502" or (state == "23514" and " " in (error.diag.constraint_name or "")):
            return None
        return f"{state} {error.diag.message_primary}"
    if '"NaN"' in answer or 'Infinity"' in answer:
        return "answered with numbers that are none"
    return "; ".join(left) or None


def describe(function: Function, changed: str, value: object, problem: str) -> str:
    return f"{function.name}({changed} => {str(value)[:60]!r}): {problem}"


# SQL functions


@pytest.mark.drill
def test_every_function_refuses_each_hostile_value_in_each_argument(filled: Connection) -> None:
    before = fingerprint(filled)
    problems, calls = [], 0
    for function in public_functions(filled):
        fine = valid(function)
        for argument in function.arguments:
            values = [None, *BY_TYPE[argument.kind]]
            if argument.kind == "jsonb":
                values += [json.dumps(value) for value in spoiled(json.loads(str(fine[argument.name])))]
            if argument.name == "filter":
                values += FILTERS if LONG else FILTERS[::5]
            for value in values:
                calls += 1
                problem = judge(filled, function, {**fine, argument.name: value})
                if problem:
                    problems.append(describe(function, argument.name, value, problem))
    assert not problems, "\n".join(problems)
    assert calls > 4000
    assert fingerprint(filled) == before


def test_every_function_accepts_what_is_valid(filled: Connection) -> None:
    """Otherwise the test above could only see errors of other arguments."""
    refused, called = {}, set()
    for function in public_functions(filled):
        for role in function.callers:
            called.add(role)
            try:
                with filled.transaction(force_rollback=True):
                    filled.execute(f"set local role {role}")
                    filled.execute(function.query(valid(function)), valid(function))
            except psycopg.Error as error:
                refused[role, function.name] = error.sqlstate
    assert refused == {("service_role", "create_embedding_webhook"): "55000"}, (
        "only this function needs Supabase's pg_net"
    )
    assert called == {"service_role", "anon"}


def hold(connection: Connection, function: Function) -> None:
    """Let hypothesis call the function with random values in several arguments at once."""
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


@pytest.mark.drill
def test_hypothesis_finds_no_combination_that_a_function_cannot_refuse(filled: Connection) -> None:
    before = fingerprint(filled)
    for function in public_functions(filled):
        if function.arguments:
            hold(filled, function)
    assert fingerprint(filled) == before


@pytest.fixture(params=["postgres", pytest.param("supabase", marks=pytest.mark.postgrest)])
def adapter(request: pytest.FixtureRequest, database_url: SecretStr) -> Iterator[Database]:
    """Each adapter in turn."""
    if request.param == "supabase":
        yield request.getfixturevalue("supabase_database")
        return
    with PostgresDatabase(database_url) as made:
        yield made


def ask(adapter: Database, function: Function, given: dict[str, object]) -> AppError | None:
    """Call the function like the program does; return the error, or None."""
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


# Both adapters


def test_values_that_postgresql_cannot_store_are_refused_by_both_adapters(
    filled: Connection, adapter: Database
) -> None:
    before = fingerprint(filled)
    problems = []
    for function in public_functions(filled):
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
    assert fingerprint(filled) == before


def huge(function: Function) -> Iterator[tuple[str, object]]:
    """Values with ten megabytes of text for each argument; in the short form for one argument of each type."""
    fine = valid(function)
    done: set[str] = set()
    for argument in function.arguments:
        # All names of collections are looked up in the same way.
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


@pytest.mark.drill
def test_ten_megabytes_of_text_are_taken_or_refused_by_both_adapters(filled: Connection, adapter: Database) -> None:
    before = fingerprint(filled)
    problems, kinds = [], set()
    for function in public_functions(filled):
        for name, value in huge(function):
            kinds.add(next(argument.kind for argument in function.arguments if argument.name == name))
            error = ask(adapter, function, {**valid(function), name: value})
            if error is not None and not 400 <= error.status < 500:
                problems.append(describe(function, name, value, repr(error)[:300]))
            if error is not None and fingerprint(filled) != before:
                problems.append(f"{function.name}: refused, and something was stored")
            before = fingerprint(filled)
    assert not problems, "\n".join(problems)
    assert kinds == {"text", "text[]", "jsonb"}
    assert invalid_states(filled) == []
