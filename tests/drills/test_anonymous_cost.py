"""Tests that no single call of anon keeps a database backend busy for long, at 100,000 rows of each shipped table."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from tests.database.rows import Connection
from tests.drills.inputs_functions import Function, public_functions, valid
from tests.fake_provider import DIMENSIONS
from tests.postgres_cluster import Cluster

pytestmark = pytest.mark.drill

ROWS = 100_000
# CPU seconds of the backend. Other programs on the machine do not increase them.
BUSY_SECONDS = 2.0
MB = 1024 * 1024

_TEXT = "'row ' || n || ' of ' || md5(n::text) || ' common words in every row'"
_VECTOR = f"(select array_agg(sin(n * 7 + d)) from generate_series(1, {DIMENSIONS}) d)::extensions.vector"
_FILL = f"""
set session_replication_role = replica;
insert into music_knowledge (topic, content, category, embedding, embedding_model)
  select 'topic', {_TEXT}, 'c' || n % 10, {_VECTOR}, 'fake' from generate_series(1, {ROWS}) n;
insert into datasets (title, description, tags, enrichment_status)
  select 'title', {_TEXT}, array['t' || n % 10], 'enriched' from generate_series(1, {ROWS}) n;
insert into code_chunks (id, path, content)
  select 'c' || n, 'src/part' || n % 100 || '/file' || n || '.py', {_TEXT} from generate_series(1, {ROWS}) n;
insert into genre_tags (id, name) overriding system value select n, 'genre ' || n from generate_series(1, {ROWS}) n;
insert into mir_synonyms (tag_type, tag_id, tag_name, synonyms)
  select 'genre', n, 'genre ' || n, jsonb_build_object('search_terms', jsonb_build_array('term ' || n, 'common word'))
  from generate_series(1, {ROWS}) n;
set session_replication_role = origin;
analyze music_knowledge, datasets, code_chunks, genre_tags, mir_synonyms;
"""

_LARGE = "[" + ",".join(["0.25"] * 16_000) + "]"
_HOSTILE = {
    "text": (
        "aBc " * (10 * MB // 4),
        "x" * 10 * MB,
        "é-" * (10 * MB // 3),
        "".join(f"w{n} " for n in range(MB)),
        "%*?_" * (10 * MB // 4),
        "common words in every row",
        "%a" * 5_000 + "*",
    ),
    "vector": (_LARGE, json.dumps([1e-30] * DIMENSIONS), json.dumps([0] * DIMENSIONS)),
    "jsonb": (
        json.dumps({f"model {n}": "[" + "0.25," * 700 + "0]" for n in range(16_000)}),
        json.dumps({"fake": _LARGE}),
        json.dumps({f"{n}": n for n in range(3 * MB)}),
        "[" * 5_000 + "]" * 5_000,
        '{"a":' * 5_000 + "1" + "}" * 5_000,
    ),
    "integer": ("2147483647", "-2147483648", "2147483648"),
    "double precision": ("1e308", "-1e308", "nan", "infinity", "1e-320"),
}
_KINDS = {"extensions.vector": "vector"}


@pytest.fixture(scope="module")
def full(cluster: Cluster) -> Iterator[SecretStr]:
    with cluster.clone() as url, psycopg.connect(url.get_secret_value(), autocommit=True) as owner:
        owner.execute(
            "insert into embedding.models (name, dimensions, provider) values ('fake', %s, 'fake')", [DIMENSIONS]
        )
        owner.execute("update embedding.collections set model = 'fake'")
        owner.execute(_FILL)
        owner.execute("select create_embedding_index('music_knowledge', m => 4, ef_construction => 16)")
        yield url


def hostile_calls(functions: list[Function]) -> Iterator[tuple[Function, dict[str, object], str]]:
    """Yield calls of every function with each hostile value in each argument, with a valid text and vector as the query."""
    for function in functions:
        usual = {
            name: value
            for name, value in valid(function).items()
            if name in ("query_text", "query_embedding", "collection", "id", "tag_type", "tag_name")
        }
        for argument in function.arguments:
            kind = _KINDS.get(argument.kind, argument.kind)
            for place, value in enumerate(_HOSTILE[kind]):
                yield function, {**usual, argument.name: value}, f"{function.name}({argument.name} => {kind} {place})"


def test_no_call_of_anon_keeps_a_backend_busy(full: SecretStr) -> None:
    busy: dict[str, float] = {}
    refusals: dict[str, int] = {}
    with psycopg.connect(full.get_secret_value(), autocommit=True) as anon:
        functions = [function for function in public_functions(anon) if "anon" in function.callers]
        assert len(functions) >= 5
        anon.execute("set role anon")
        for function, arguments, name in hostile_calls(functions):
            before = processor_seconds(anon)
            try:
                anon.execute(function.query(arguments), arguments)
            except psycopg.Error as error:
                refusals[name] = len(str(error))
            busy[name] = processor_seconds(anon) - before
    slow = {name: round(seconds, 2) for name, seconds in busy.items() if seconds > BUSY_SECONDS}
    assert len(busy) > 200
    assert max(refusals.values()) < 10_000, f"an error repeats the argument: {refusals}"
    assert slow == {}, f"the slowest: {sorted(busy.items(), key=lambda one: -one[1])[:10]}"


def processor_seconds(connection: Connection) -> float:
    """The CPU time of the connection's backend. On other systems than Linux, the time of the clock."""
    stat = Path(f"/proc/{connection.info.backend_pid}/stat")
    if not stat.exists():
        return time.monotonic()
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / 100
