#!/usr/bin/env python3
"""Measures latency, recall and sizes of the SQL function for search over a million rows. Compares it with two other methods
in the same database.

(a) The SQL of Supabase's guide to hybrid search. The words of a query are joined by OR, because with AND a question finds
    nothing.
(b) A plain pgvector query over the same index, with pgvector's default ef_search and with the one that the SQL function sets.

For each query the methods run in turn. The program prints percentiles, and ratios of medians over the same queries.
"""

import json
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import benchmark
import command
import numpy as np
from guide import guide_statement
from pydantic import SecretStr
from search_rows import DIMENSIONS, MODEL, RARE, Connection, loaded, quarter_of_memory, row_id, scatter, start_server

from shared.database.postgres import connect

COLUMNS = "id, topic, category, content"
RPC = f"select {COLUMNS} from public.search_music_knowledge(%(text)s, %(vector)s::extensions.vector, 10"
NEAREST = (
    f"embedding::extensions.halfvec({DIMENSIONS}) operator(extensions.<=>) %(vector)s::extensions.halfvec({DIMENSIONS})"
)
BARE = f"select {COLUMNS} from public.music_knowledge where embedding_model = '{MODEL}' order by {NEAREST} limit 10"
EXACT = (
    f"select id from public.music_knowledge where embedding_model = '{MODEL}'"
    " order by embedding operator(extensions.<=>) %(vector)s::extensions.vector limit 10"
)
ANY_WORD = "replace(plainto_tsquery('english', %(text)s)::text, '&', '|')::tsquery"
GUIDE_FULL_TEXT = f"""
select {COLUMNS} from public.music_knowledge
where fts @@ {ANY_WORD} order by ts_rank_cd(fts, {ANY_WORD}) desc limit 10
"""
# NEAREST is the expression of the vector index. The guide's statement does not use the index even so, because it sorts by
# row_number() and so needs the rank of every row.
GUIDE = guide_statement(
    ", ".join(f"k.{column}" for column in COLUMNS.split(", ")), ANY_WORD, NEAREST, 10, f"embedding_model = '{MODEL}'"
)
# The pairs of statements (sides) whose medians are compared.
RATIOS = (
    ("hybrid", "bare pgvector"),
    ("hybrid", "bare pgvector, equal recall"),
    ("guide with OR, full-text", "full-text"),
    ("guide with OR, hybrid", "hybrid"),
)


@dataclass
class Side:
    """One of the compared statements. A slow one is measured with only some of the queries."""

    connection: Connection
    statement: str
    text: bool = True
    vector: bool = True
    every: int = 1
    milliseconds: dict[int, float] = field(default_factory=dict)
    found: dict[int, list[Any]] = field(default_factory=dict)

    def ask(self, number: int, text: str, vector: str) -> None:
        arguments = {"text": text if self.text else None, "vector": vector if self.vector else None}
        started = time.perf_counter()
        rows = self.connection.execute(self.statement, arguments, prepare=False).fetchall()
        self.milliseconds[number] = 1000 * (time.perf_counter() - started)
        self.found[number] = [row[0] for row in rows]

    def percentile(self, part: float) -> float:
        return round(float(np.quantile(list(self.milliseconds.values()), part)), 2)


def main() -> int:
    parser = benchmark.parser(
        __doc__,
        rows=(1_000_000, "rows of the table"),
        queries=(500, "measured queries"),
        slow_queries=(40, "queries that also measure the exact scan and the guide's recipe, which are slow"),
    )
    buffers = "the server's shared_buffers (default: %(default)s)"
    parser.add_argument("--shared-buffers", default=quarter_of_memory(), metavar="SIZE", help=buffers)
    parser.add_argument(
        "--keep", action="store_true", help="keep the database for the next run; building takes minutes"
    )
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    server = start_server(arguments.shared_buffers)
    machine = f"{os.cpu_count()} cores, load average {load_before:.1f}, shared_buffers {arguments.shared_buffers}"
    print(f"{arguments.rows:,} rows, {machine}")
    with loaded(arguments.rows, server, keep=arguments.keep) as (url, seconds), ExitStack() as opened:
        sides, queries = prepare(url, opened, arguments.queries, arguments.slow_queries, arguments.rows)
        recall = measure(sides, queries)
        with connect(url) as owner:
            sizes = megabytes(owner)
    result = {
        "rows": arguments.rows,
        "queries": arguments.queries,
        "cores": os.cpu_count(),
        "load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        "shared_buffers": arguments.shared_buffers,
        "build_seconds": seconds,
        "megabytes": sizes,
        "milliseconds": {
            name: {"p50": side.percentile(0.5), "p99": side.percentile(0.99)} for name, side in sides.items()
        },
        "recall": recall,
        "ratios": {f"{ours} / {theirs}": ratio(sides[ours], sides[theirs]) for ours, theirs in RATIOS},
    }
    show(result)
    return benchmark.finish(arguments, result)


def prepare(
    url: SecretStr, opened: ExitStack, count: int, slow: int, rows: int
) -> tuple[dict[str, Side], list[tuple[str, str]]]:
    """Return the compared sides, with their connections, and the queries."""
    caller: dict[str, Connection] = {
        name: opened.enter_context(connect(url)) for name in ("service_role", "anon", "default", "equal", "owner")
    }
    # Read all rows and vectors once, so that they are in the system's cache. The warm-up queries do this for the indexes.
    caller["owner"].execute("select sum(extensions.vector_norm(embedding)) from public.music_knowledge")
    for role in ("service_role", "anon"):
        caller[role].execute(f"set role {role}")
    row = caller["owner"].execute(
        r"select substring(prosrc from 'hnsw\.ef_search'', ''(\d+)') from pg_proc"
        " where oid = 'embedding.search_hits'::regproc"
    )
    caller["equal"].execute(f"set hnsw.ef_search = {row.fetchone()[0]}")  # type: ignore[index]
    # The exact scan must read the table and not an index.
    caller["owner"].execute("set enable_indexscan = off")
    seldom = max(1, count // slow)
    service, anon = caller["service_role"], caller["anon"]
    sides = {
        "hybrid": Side(service, f"{RPC})"),
        "full-text": Side(service, f"{RPC})", vector=False),
        "semantic": Side(service, f"{RPC})", text=False),
        "hybrid, anon": Side(anon, f"{RPC})"),
        "full-text, anon": Side(anon, f"{RPC})", vector=False),
        "semantic, anon": Side(anon, f"{RPC})", text=False),
        "hybrid, filter 1 %": Side(service, f"{RPC}, '{RARE.decode()}')", every=max(1, seldom // 2)),
        "bare pgvector": Side(caller["default"], BARE, text=False),
        "bare pgvector, equal recall": Side(caller["equal"], BARE, text=False),
        "guide with OR, full-text": Side(caller["default"], GUIDE_FULL_TEXT, vector=False, every=seldom),
        "guide with OR, hybrid": Side(caller["default"], GUIDE, every=seldom),
        "exact scan": Side(caller["owner"], EXACT, text=False, every=seldom),
    }
    return sides, make_queries(caller["owner"], 2 * count, rows)


def make_queries(owner: Connection, count: int, rows: int) -> list[tuple[str, str]]:
    """Make queries: one to six words of a row, and a vector that is near the vector of this row."""
    random = np.random.default_rng(7)
    made = []
    for number in random.integers(0, rows, count):
        row = owner.execute(
            "select content, embedding::text from public.music_knowledge where id = %s", [row_id(int(number))]
        ).fetchone()
        assert row is not None
        words = row[0].split()
        chosen = random.choice(words, min(len(words), int(random.integers(1, 7))), replace=False)
        vector = scatter(np.array([json.loads(row[1])], np.float32), 0.3, random)[0]
        made.append((" ".join(chosen), str(vector.tolist())))
    return made


def measure(sides: dict[str, Side], queries: list[tuple[str, str]]) -> dict[str, float]:
    """Send the queries to the sides in turn; the first half only warms up. Returns recall@10 of the vector searches."""
    order = list(sides.values())
    warm_up, queries = queries[: len(queries) // 2], queries[len(queries) // 2 :]
    for number, (text, vector) in enumerate(warm_up):
        for side in order:
            if side.every == 1 or number < 3:
                side.ask(number, text, vector)
    for side in order:
        side.milliseconds.clear()
        side.found.clear()
    for number, (text, vector) in enumerate(queries):
        # Rotate the order: the exact scan fills the processor's caches with other data, so the next side is slower.
        for side in benchmark.rotated(order, number):
            if number % side.every == 0:
                side.ask(number, text, vector)
    exact = sides["exact scan"].found
    return {
        name: round(float(np.mean([len(set(sides[name].found[n]) & set(best)) / 10 for n, best in exact.items()])), 4)
        for name in ("semantic", "semantic, anon", "bare pgvector", "bare pgvector, equal recall")
    }


def ratio(one: Side, other: Side) -> float:
    """The ratio of the median times of two sides, over the queries that both were measured with."""
    both = one.milliseconds.keys() & other.milliseconds.keys()
    medians = [float(np.median([side.milliseconds[number] for number in both])) for side in (one, other)]
    return round(medians[0] / medians[1], 1)


def megabytes(owner: Connection) -> dict[str, int]:
    rows = owner.execute("""
        select 'rows and vectors', pg_table_size('public.music_knowledge') / 1048576
        union all
        select case when a.amname = 'hnsw' then 'vector index' when a.amname = 'gin' then 'full-text index' else r.relname end,
               pg_relation_size(r.oid) / 1048576
        from pg_index i join pg_class r on r.oid = i.indexrelid join pg_am a on a.oid = r.relam
        where i.indrelid = 'public.music_knowledge'::regclass
        order by 2 desc
    """)
    return {name: int(size) for name, size in rows}


def show(result: dict[str, Any]) -> None:
    print()
    rows = [(name, *times.values(), result["recall"].get(name, "")) for name, times in result["milliseconds"].items()]
    benchmark.print_table(("side", "p50 ms", "p99 ms", "recall@10"), rows)
    print("\nratios of medians, the same queries")
    for name, value in result["ratios"].items():
        print(f"{name:<44} {value:>7}")
    print("\nMB: " + ", ".join(f"{name} {size:,}" for name, size in result["megabytes"].items()))
    steps = ", ".join(f"{name} {value:,.0f}" for name, value in result["build_seconds"].items())
    print(f"built in seconds: {steps}")
    print(f"load average {result['load_average'][0]} before, {result['load_average'][1]} after")


if __name__ == "__main__":
    command.run(main)
