#!/usr/bin/env python3
"""Measures how much slower writes are with tracking. The same writes go alternately to untracked and tracked tables.

The program prints medians and ratios of four tables. All have the same columns (also those of the vectors) and the same
primary key. All rows that are updated have their vector, and the update changes a column that is not part of the text.

- bare: it is not tracked and has no full-text search (`fts` is an empty column)
- untracked: it is not tracked, and has a generated column `fts` with an index. So it has only the cost of full-text search
- tracked: it is like `untracked`, but tracked. The difference between the two is the cost of tracking
- tracked, fts by trigger: it is tracked, and a trigger computes `fts`, which is not a generated column. The difference to
  `bare` is the cost of tracking and full-text search together

On Linux it also prints the CPU time of the server process. This is more reliable on a busy machine, because it does not
include the wait for the disk at each commit.
"""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import benchmark
import command
import psycopg
from scratch import scratch_database

from shared.database.postgres import connect

Connection = psycopg.Connection[tuple[Any, ...]]

DIMENSIONS = 384
GENERATED_FTS = "tsvector generated always as (to_tsvector('english', title || ' ' || content)) stored"
SIDES = {
    "bare": "writes_bare",
    "untracked": "writes_untracked",
    "tracked": "writes_tracked",
    "tracked, fts by trigger": "writes_fts_by_trigger",
}
TARGETS = {"update": 1.5, "insert": 3.0, "copy": 3.0}


class Spent(NamedTuple):
    """The milliseconds that a write took, and the CPU time of the server during the write."""

    wall: float
    cpu: float


def main() -> int:
    parser = benchmark.parser(
        __doc__,
        rows=(30_000, "rows of a large statement"),
        singles=(200, "statements of one row in each round"),
        rounds=(5, "rounds; each writes to every table"),
        words=(40, "words of a row's text"),
    )
    arguments = parser.parse_args()
    spent: dict[str, dict[str, list[Spent]]] = {}
    with scratch_database("bench_writes") as url, connect(url) as owner:
        make_tables(owner, arguments.rows, arguments.words)
        for number in range(arguments.rounds):
            for side in benchmark.rotated(list(SIDES), number):
                for operation, cost in write(owner, SIDES[side], arguments.rows, arguments.singles).items():
                    spent.setdefault(operation, {}).setdefault(side, []).append(cost)
    medians = {operation: {side: middle(by_side[side]) for side in SIDES} for operation, by_side in spent.items()}
    print(
        f"medians of {arguments.rounds} rounds in milliseconds, {os.cpu_count()} cores; {arguments.words} words a row,"
        f" vectors of {DIMENSIONS} dimensions; x: ratio to `untracked`"
    )
    print_costs("time", {name: [cost.wall for cost in sides.values()] for name, sides in medians.items()})
    print_costs("processor time", {name: [cost.cpu for cost in sides.values()] for name, sides in medians.items()})
    result = {
        "cores": os.cpu_count(),
        "rows": arguments.rows,
        "words": arguments.words,
        "milliseconds": {
            name: {side: cost._asdict() for side, cost in sides.items()} for name, sides in medians.items()
        },
    }
    return benchmark.finish(arguments, result)


def make_tables(owner: Connection, rows: int, words_per_row: int) -> None:
    generator = random.Random(1)
    vocabulary = ["".join(generator.choices("abcdefghiklmnoprstuvw", k=7)) for _ in range(5_000)]
    owner.execute("create table texts (number int primary key, title text, content text, embedding extensions.vector)")
    with owner.cursor().copy("copy texts (number, title, content) from stdin") as copy:
        for number in range(rows):
            words = generator.choices(vocabulary, k=words_per_row)
            copy.write_row((number, " ".join(words[:4]), " ".join(words[4:])))
    owner.execute(
        "update texts set embedding = (select array_agg(random()) from generate_series(1, %s) where number is not null)"
        "::extensions.vector",
        [DIMENSIONS],
    )
    owner.execute("select register_embedding_model('bench', 'bench', %s)", [DIMENSIONS])
    for side, table in SIDES.items():
        fts = GENERATED_FTS if side in ("untracked", "tracked") else "tsvector"
        owner.execute(
            f"create table {table} (id bigint generated always as identity primary key, title text not null,"
            " content text not null, views integer not null default 0, embedding extensions.vector,"
            f" embedding_model text, embedding_hash bytea, fts {fts})"
        )
        if side == "untracked":
            owner.execute(f"create index on {table} using gin (fts)")
        if side.startswith("tracked"):
            owner.execute(
                f"create function embedding.document_text(t {table}) returns text language sql immutable"
                " as $$ select t.title || ' ' || t.content $$"
            )
            owner.execute("select track_embeddings(%s, model => 'bench')", [table])


def write(owner: Connection, table: str, rows: int, singles: int) -> dict[str, Spent]:
    """Measure one statement of each kind of write."""
    texts = owner.execute("select title, content from texts order by number").fetchall()
    lines = [f"{title}\t{content}\n".encode() for title, content in texts]
    insert = f"insert into {table} (title, content) select title, content from texts"
    clear = f"truncate {table} restart identity"
    spent = {}

    def copy() -> None:
        with owner.cursor().copy(f"copy {table} (title, content) from stdin") as stream:
            for line in lines:
                stream.write(line)

    owner.execute(clear)
    spent[f"copy, {rows:,} rows"] = measure(owner, copy)
    owner.execute(clear)
    spent[f"insert, {rows:,} rows"] = measure(owner, lambda: owner.execute(f"{insert} order by number"))
    owner.execute(clear)
    keys = [number % rows for number in range(singles)]
    spent["insert, one row"] = measure_each(owner, f"{insert} where number = %s", keys)

    owner.execute(clear)
    owner.execute(
        f"insert into {table} (title, content, embedding, embedding_model, embedding_hash)"
        " select title, content, embedding, 'bench', embedding.text_hash(title || ' ' || content) from texts order by number"
    )
    update = f"update {table} set views = views + 1"
    owner.execute(f"vacuum analyze {table}")
    spent[f"update, {rows:,} rows"] = measure(owner, lambda: owner.execute(update))
    owner.execute(f"vacuum analyze {table}")
    keys = [1 + number * 37 % rows for number in range(singles)]
    spent["update, one row"] = measure_each(owner, f"{update} where id = %s", keys)
    return spent


def measure(owner: Connection, action: Callable[[], object]) -> Spent:
    cpu, started = processor_milliseconds(owner), time.perf_counter()
    action()
    return Spent(1000 * (time.perf_counter() - started), processor_milliseconds(owner) - cpu)


def measure_each(owner: Connection, statement: str, keys: list[int]) -> Spent:
    """The median over statements of one row; each is a transaction of its own."""
    return middle([measure(owner, lambda key=key: owner.execute(statement, [key])) for key in keys])  # type: ignore[misc]


def processor_milliseconds(owner: Connection) -> float:
    """The CPU time that the server process of this connection has used so far."""
    try:
        return int(Path(f"/proc/{owner.info.backend_pid}/schedstat").read_text().split()[0]) / 1e6
    except OSError:
        return float("nan")


def middle(costs: list[Spent]) -> Spent:
    return Spent(*(benchmark.median(values, 4) for values in zip(*costs, strict=True)))


def print_costs(title: str, medians: dict[str, list[float]]) -> None:
    print()
    rows = []
    for operation, costs in medians.items():
        untracked = costs[1]
        target = f"{TARGETS[operation.split(',')[0]]:.1f} x"
        cells = [f"{cost:.{0 if untracked >= 20 else 2}f}" for cost in costs]
        ratios = [f"{cell} ({cost / untracked:.1f} x)" for cell, cost in zip(cells[2:], costs[2:], strict=True)]
        rows.append((operation, *cells[:2], *ratios, target))
    benchmark.print_table((title, *SIDES, "target"), rows)


if __name__ == "__main__":
    command.run(main)
