"""Arguments are sent inside the statement, as quoted literals. Tests that each arrives unchanged, whatever it contains."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from shared.database import postgres
from shared.database.base import Database
from shared.database.postgres import PostgresDatabase
from shared.models import Caller
from tests.database.rows import Connection
from tests.pgbouncer import PgBouncer

HOSTILE = [
    "",
    "'",
    "''",
    "\\",
    "\\'",
    "\\\\'; drop table music_knowledge; --",
    "'; drop table music_knowledge; select '",
    "E'\\x27'",
    "$$ $1 %s %(name)s %% {} {0}",
    '"\u2019\u02bc\uff07"',
    "line\nbreak\r\ttab\x01\x7f",
    "/* -- */;",
    "été 部署 \U0001f3b8 e\u0301",
    # In SJIS the second byte of this character is a backslash.
    "表' or true --",
    "null",
    "{a,\"b\"}",
]  # fmt: skip


@pytest.fixture(params=["on", "off"], ids=["standard strings", "escape strings"])
def quotes(request: pytest.FixtureRequest, owner: Connection) -> None:
    """Functions that return their argument, with both values of standard_conforming_strings (backslash in a literal)."""
    owner.execute(f"alter database {owner.info.dbname} set standard_conforming_strings = {request.param}")
    for kind in ("text", "text[]", "int[]", "jsonb", "bytea", "float8", "int", "bool"):
        name = "echo_" + kind.replace("[]", "s")
        owner.execute(f"create function public.{name}(value {kind}) returns {kind} language sql as 'select value'")
    owner.execute("grant execute on all functions in schema public to anon")


@pytest.fixture(params=["direct", "pooled", "SJIS", "caller"])
def database(
    request: pytest.FixtureRequest, quotes: None, database_url: SecretStr, pooler: Callable[[str], PgBouncer]
) -> Iterator[Database]:
    """A database for each way in which an argument is quoted. An encoding in the URL has no effect."""
    url = pooler("transaction").url(database_url) if request.param == "pooled" else database_url
    if request.param == "SJIS":
        url = SecretStr(url.get_secret_value() + "&client_encoding=SJIS")
    with PostgresDatabase(url) as adapter:
        claims = {"role": "anon", "sub": "'\\; drop table music_knowledge; -- %s"}
        yield adapter.as_caller(Caller("anon", claims)) if request.param == "caller" else adapter


def echo(database: Database, kind: str, value: Any) -> Any:
    return database.call_scalar(f"echo_{kind}", {"value": value})


def test_hostile_texts_arrive_as_they_were(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in HOSTILE:
        # A result of "" is treated like no result.
        assert echo(database, "text", text) == (text or None)
    assert echo(database, "texts", HOSTILE) == HOSTILE
    assert echo(database, "jsonb", {text: [text] for text in HOSTILE}) == {text: [text] for text in HOSTILE}
    # A large argument is sent as a parameter, separately from its statement.
    monkeypatch.setattr(postgres, "_LARGE", 10)
    assert echo(database, "jsonb", [{text: text} for text in HOSTILE]) == [{text: text} for text in HOSTILE]


def test_values_of_other_types_arrive_as_they_were(database: Database) -> None:
    for number in (0, -1, 2**31 - 1, -(2**31)):
        assert echo(database, "int", number) == number
    for number in (0.1, -1e-300, 1e300, 0.30000000000000004, -0.0):
        assert echo(database, "float8", number) == number
    assert echo(database, "ints", [3, -1]) == [3, -1]
    assert echo(database, "texts", []) == []
    assert [echo(database, "bool", value) for value in (True, False, None)] == [True, False, None]
    assert echo(database, "jsonb", {"a": [1, None, True, 0.5]}) == {"a": [1, None, True, 0.5]}
    data = bytes(range(256)) + b"\\'"
    assert echo(database, "bytea", data) == "\\x" + data.hex()


def test_a_large_argument_is_sent_beside_its_statement(owner: Connection, database_url: SecretStr) -> None:
    owner.execute(
        "create function public.statement(rows jsonb) returns int language sql as 'select length(current_query())'"
    )
    owner.execute("create function public.who(rows jsonb) returns text language sql as 'select current_user::text'")
    with PostgresDatabase(database_url) as adapter:
        small, large = ([{"text": "x" * count}] for count in (500, 40_000))
        assert adapter.call_scalar("statement", {"rows": small}) > 500
        assert adapter.call_scalar("statement", {"rows": large}) < 200
        assert (
            adapter.call_scalar("who", {"rows": large}) == adapter.call_scalar("who", {"rows": small}) == "service_role"
        )
