#!/usr/bin/env python3
"""Measures how long a claim and a save take with 1,000 and with 1,000,000 pending rows; prints medians and their ratio."""

import os
import time
from typing import Any

import benchmark
import command
import numpy as np
from scratch import scratch_database

from shared.database.postgres import PostgresDatabase, connect
from shared.embedding.collection import Collection
from shared.models import EmbeddingModel

DIMENSIONS = 384
BATCH = 50


def main() -> int:
    parser = benchmark.parser(
        __doc__,
        small=(1_000, "rows of the short queue"),
        large=(1_000_000, "rows of the long queue"),
        rounds=(15, "rounds; each measures both queues"),
    )
    arguments = parser.parse_args()
    sizes = {"small": arguments.small, "large": arguments.large}
    claims: dict[str, list[float]] = {name: [] for name in sizes}
    saves: dict[str, list[float]] = {name: [] for name in sizes}
    random = np.random.default_rng(1)

    with scratch_database("bench_queue") as url, connect(url) as owner, PostgresDatabase(url) as database:
        queues = {name: Collection(database, f"bench_{name}") for name in sizes}
        for name, rows in sizes.items():
            seconds = fill(owner, f"bench_{name}", rows)
            print(f"{rows:>9,} rows inserted and queued in {seconds:.1f} s ({rows / seconds:,.0f} rows/s)")
            queues[name].register_embedding_model(EmbeddingModel("bench", "bench", DIMENSIONS))
        owner.execute("vacuum analyze")
        for _ in range(arguments.rounds):
            for name, work in queues.items():
                started = time.perf_counter()
                rows = work.claim_embeddings(BATCH, 300)
                claims[name].append(1000 * (time.perf_counter() - started))
                vectors = random.normal(size=(len(rows), DIMENSIONS)).astype(np.float32)
                started = time.perf_counter()
                work.save_embeddings("bench", rows, vectors)
                saves[name].append(1000 * (time.perf_counter() - started))
                # Make the rows pending again, so that both queues keep their length.
                owner.execute(f"update bench_{name} set embedding = null where embedding is not null")

    result: dict[str, Any] = {"cores": os.cpu_count()}
    for step, spent in (("claim", claims), ("save", saves)):
        small, large = (benchmark.median(spent[name], 2) for name in sizes)
        result |= {f"{step}_ms_small": small, f"{step}_ms_large": large, f"{step}_ratio": round(large / small, 2)}
    print(f"\nmedians of {arguments.rounds} rounds, {BATCH} rows each, {result['cores']} cores")
    lines = [(f"{rows:,}", result[f"claim_ms_{name}"], result[f"save_ms_{name}"]) for name, rows in sizes.items()]
    ratios = ("ratio", result["claim_ratio"], result["save_ratio"])
    benchmark.print_table(("pending rows", "claim ms", "save ms"), [*lines, ratios])
    return benchmark.finish(arguments, result)


def fill(owner: Any, table: str, rows: int) -> float:
    """Make a tracked table of pending rows; returns the seconds that inserting them took."""
    owner.execute(f"""
        create table public.{table} (
          id bigint generated always as identity primary key, content text not null,
          fts tsvector generated always as (to_tsvector('english', content)) stored
        );
        create function embedding.document_text(t public.{table}) returns text language sql immutable as $$ select t.content $$;
        select track_embeddings('public.{table}');
    """)
    started = time.perf_counter()
    for first in range(1, rows + 1, 100_000):
        numbers = f"generate_series({first}, {min(first + 99_999, rows)})"
        owner.execute(f"insert into public.{table} (content) select 'take ' || i || ' of a track' from {numbers} i")
    return time.perf_counter() - started


if __name__ == "__main__":
    command.run(main)
