#!/usr/bin/env python3
"""Measures how long the users of a large table wait while it is tracked, prepared and embedded.

A writer inserts and changes rows, and a reader reads rows by their key, each at a fixed rate. Meanwhile the table is
tracked. Then a backfill builds the indexes, computes `fts`, queues the rows and embeds them with a provider that answers at
once. The exit code is 1 if a statement took a second or longer.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import benchmark
import command
import numpy as np
import psycopg
from pydantic import SecretStr
from scratch import scratch_database

from shared.database.postgres import PostgresDatabase, connect
from shared.embedding.backfill import BackfillOptions, Progress, backfill
from shared.models import EmbeddingModel, InputKind
from shared.providers.base import EmbeddingProvider, WireAnswer

Connection = psycopg.Connection[tuple[object, ...]]

DIMENSIONS = 384
READS_PER_SECOND = 50
LIMIT_MS = 1000


class InstantProvider(EmbeddingProvider):
    """Answers at once with random vectors."""

    name = "bench"
    max_inputs = 1_000

    def __init__(self) -> None:
        super().__init__(EmbeddingModel("bench", self.name, DIMENSIONS))
        self._random = np.random.default_rng(1)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) // 4 for text in texts]

    def _request(self, inputs: Sequence[str], timeout: float | None = None, kind: InputKind = "document") -> WireAnswer:
        return WireAnswer(self._random.standard_normal((len(inputs), DIMENSIONS), dtype=np.float32), tokens=0)


def main() -> int:
    parser = benchmark.parser(
        __doc__,
        rows=(200_000, "rows of the table"),
        writes=(50, "writes a second"),
        shortest=(20, "words of the shortest text"),
        longest=(200, "words of the longest text"),
    )
    arguments = parser.parse_args()
    with scratch_database("bench_live") as url, connect(url) as owner:
        size = make_table(owner, benchmark.make_texts(arguments.rows, arguments.shortest, arguments.longest))
        print(
            f"{arguments.rows:,} rows, {size}; {arguments.writes} writes and {READS_PER_SECOND} reads a second,"
            f" {os.cpu_count()} cores"
        )
        phases = measure(url, owner, arguments.rows, arguments.writes)
    benchmark.print_table(
        ("", "seconds", "writes", "median ms", "longest write ms", "longest read ms"),
        [(name, *phase.values()) for name, phase in phases.items()],
    )
    worst = max(max(phase["longest_write_ms"], phase["longest_read_ms"]) for phase in phases.values())
    return benchmark.finish(arguments, phases) or int(worst >= LIMIT_MS)


def make_table(owner: Connection, texts: Sequence[str]) -> str:
    """Fill a table that is not tracked; returns its size."""
    owner.execute("create table live (id bigint primary key, body text not null)")
    owner.execute(
        "create function embedding.document_text(t live) returns text language sql immutable as 'select t.body'"
    )
    with owner.cursor().copy("copy live from stdin") as copy:
        for number, text in enumerate(texts):
            copy.write_row((number, f"{number} {text}"))
    owner.execute("vacuum analyze live")
    owner.execute("select register_embedding_model('bench', 'bench', %s)", [DIMENSIONS])
    found = owner.execute("select pg_size_pretty(pg_table_size('live'))").fetchone()
    return str(found[0]) if found else ""


def measure(url: SecretStr, owner: Connection, rows: int, writes: int) -> dict[str, dict[str, float]]:
    """Measure the seconds of each phase, and the milliseconds of its writes and reads."""
    phases: dict[str, dict[str, float]] = {}
    with (
        connect(url) as writer,
        connect(url) as reader,
        PostgresDatabase(url) as database,
        repeated(writer_of(writer, rows), writes) as written,
        repeated(reader_of(reader, rows), READS_PER_SECOND) as was_read,
    ):

        def end_phase(name: str) -> None:
            """Store what was measured since the last phase ended."""
            spent, waits = [written.pop(0) for _ in list(written)], [was_read.pop(0) for _ in list(was_read)]
            phases[name] = {
                "seconds": round(time.monotonic() - sum(phase["seconds"] for phase in phases.values()) - began, 1),
                "writes": len(spent),
                "median_write_ms": benchmark.median(spent, 1),
                "longest_write_ms": round(max(spent), 1),
                "longest_read_ms": round(max(waits), 1),
            }

        def on_progress(_: Progress) -> None:
            found = owner.execute("select from embedding.collections where name = 'live' and preparing").fetchone()
            if found is None and "prepare" not in phases:
                end_phase("prepare")

        began = time.monotonic()
        time.sleep(10)
        end_phase("before")
        owner.execute("select track_embeddings('live', model => 'bench')")
        time.sleep(0.5)  # let statements that waited for the lock end in this phase
        end_phase("track")
        outcome = backfill(
            database, InstantProvider(), BackfillOptions("live", batch_size=100), on_progress=on_progress
        )
        end_phase("embed the rest")
        if outcome.error is not None:
            raise outcome.error
    return phases


def writer_of(connection: Connection, rows: int) -> Callable[[], object]:
    """A function that inserts a row at one call, and changes a row at the next."""
    chance, number = random.Random(3), iter(range(rows, 2**31))

    def write() -> None:
        new = next(number)
        if new % 2:
            connection.execute("insert into live values (%s, %s)", [new, f"{new} is a row that was just written"])
        else:
            key = chance.randrange(rows)
            connection.execute("update live set body = %s where id = %s", [f"{new} is the new text of row {key}", key])

    return write


def reader_of(connection: Connection, rows: int) -> Callable[[], object]:
    """A function that reads a row by its key."""
    chance = random.Random(4)
    return lambda: connection.execute("select body from live where id = %s", [chance.randrange(rows)]).fetchone()


@contextmanager
def repeated(action: Callable[[], object], rate: int) -> Iterator[list[float]]:
    """Run the action in a thread, `rate` times a second; yields the list of milliseconds that each run took."""
    done, spent = threading.Event(), list[float]()

    def run() -> None:
        due = time.monotonic()
        while not done.wait(max(0.0, due - time.monotonic())):
            began = time.monotonic()
            action()
            spent.append(1000 * (time.monotonic() - began))
            # After a long wait, skip the runs that were missed.
            due = max(due + 1 / rate, time.monotonic())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield spent
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    command.run(main)
