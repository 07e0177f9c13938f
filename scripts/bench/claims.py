#!/usr/bin/env python3
"""What claiming and saving cost at 1,000 and at 1,000,000 pending rows, interleaved; medians and their ratio."""

import json
import os
import statistics
import sys
import time
from pathlib import Path

# What the benchmarks share lies in the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import command
import numpy as np
from bench.scratch import scratch_database

from shared.database.postgres import PostgresDatabase, connect
from shared.embedding.collection import Collection
from shared.models import EmbeddingModel

DIMENSIONS = 384
BATCH = 50


def main() -> int:
    parser = command.parser(__doc__, json=command.JSON)
    parser.add_argument("--small", type=int, default=1_000, metavar="ROWS", help="of the short queue (default: 1000)")
    parser.add_argument(
        "--large", type=int, default=1_000_000, metavar="ROWS", help="of the long one (default: 1000000)"
    )
    parser.add_argument("--rounds", type=int, default=15, help="rounds, the queues in turn (default: 15)")
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
                claims[name].append(time.perf_counter() - started)
                vectors = random.normal(size=(len(rows), DIMENSIONS)).astype(np.float32)
                started = time.perf_counter()
                work.save_embeddings("bench", rows, vectors)
                saves[name].append(time.perf_counter() - started)
                # Both queues stay as long as they were.
                owner.execute(f"update bench_{name} set embedding = null where embedding is not null")

    result = {
        "cores": os.cpu_count(),
        **{f"claim_ms_{name}": round(1000 * statistics.median(claims[name]), 2) for name in sizes},
        **{f"save_ms_{name}": round(1000 * statistics.median(saves[name]), 2) for name in sizes},
    }
    result["claim_ratio"] = round(statistics.median(claims["large"]) / statistics.median(claims["small"]), 2)
    result["save_ratio"] = round(statistics.median(saves["large"]) / statistics.median(saves["small"]), 2)
    print(f"\nmedians of {arguments.rounds} rounds, {BATCH} rows each, {os.cpu_count()} cores")
    print(f"{'pending rows':>14} {'claim ms':>10} {'save ms':>10}")
    for name, rows in sizes.items():
        print(f"{rows:>14,} {result[f'claim_ms_{name}']:>10} {result[f'save_ms_{name}']:>10}")
    print(f"{'ratio':>14} {result['claim_ratio']:>10} {result['save_ratio']:>10}")
    if arguments.json:
        print(json.dumps(result))
    return 0


def fill(owner, table: str, rows: int) -> float:  # type: ignore[no-untyped-def]
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
        last = min(first + 99_999, rows)
        owner.execute(
            f"insert into public.{table} (content) select 'take ' || i || ' of a track' "
            f"from generate_series({first}, {last}) i"
        )
    return time.perf_counter() - started


if __name__ == "__main__":
    command.run(main)
