#!/usr/bin/env python3
"""Backfill against what limits it: the bare engine on the same texts, or a provider that answers after 100 ms.

Rounds of both sides are interleaved; printed are medians and their ratio.
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

# What the benchmarks share lies in the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import command
from bench.scratch import PROJECT, SCRATCH, scratch_database, seed_words
from pydantic import SecretStr

from shared.database.base import Database
from shared.database.postgres import PostgresDatabase, connect
from shared.embedding.backfill import BackfillOptions, BackfillOutcome, backfill
from shared.providers.base import EmbeddingProvider
from shared.providers.onnx.provider import OnnxProvider
from shared.providers.openai.provider import OpenAIProvider

WORDS = seed_words()


def main() -> int:
    parser = command.parser(__doc__, json=command.JSON)
    parser.add_argument("--texts", metavar="FILE", help="JSON lines with a field text (default: made from seed.sql)")
    parser.add_argument(
        "--rows", type=int, default=2_000, help="texts for the engine (default: 2000, or all of --texts)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds, both sides in turn (default: 3)")
    parser.add_argument("--remote-rows", type=int, default=20_000, help="rows for the remote provider (default: 20000)")
    parser.add_argument("--latency-ms", type=int, default=100, help="its time to answer (default: 100)")
    parser.add_argument("--only", choices=("engine", "remote"), help="measure one of the two (default: both)")
    arguments = parser.parse_args()
    result: dict[str, object] = {"cores": os.cpu_count()}
    if arguments.only != "remote":
        result["engine"] = bench_engine(read_texts(arguments.texts, arguments.rows), arguments.rounds)
    if arguments.only != "engine":
        result["remote"] = bench_remote(arguments.remote_rows, arguments.latency_ms, arguments.rounds)
    if arguments.json:
        print(json.dumps(result))
    return 0


def bench_engine(texts: list[str], rounds: int) -> dict[str, object]:
    """The same distinct texts through provider.embed alone, and through the database."""
    bare: list[float] = []
    whole: list[float] = []
    with (
        scratch_database("bench_backfill") as url,
        closing(OnnxProvider(source=None, cache_dir=SCRATCH / "models")) as provider,
        PostgresDatabase(url, max_connections=8) as database,
    ):
        insert(url, texts)
        for number in range(rounds + 1):
            started = time.perf_counter()
            provider.embed_documents(texts)
            alone = time.perf_counter() - started
            outcome = run(database, provider, workers=4)
            clear(url)
            if number:  # the first round warms both up
                bare.append(len(texts) / alone)
                whole.append(outcome.report.embedded / outcome.report.seconds)
    share = statistics.median(whole) / statistics.median(bare)
    print(f"engine, {len(texts):,} texts, medians of {rounds} rounds, {os.cpu_count()} cores")
    print(f"  provider.embed alone {statistics.median(bare):8,.0f} texts/s")
    print(f"  backfill             {statistics.median(whole):8,.0f} rows/s, {share:.0%} of it")
    return {"alone": statistics.median(bare), "backfill": statistics.median(whole), "share": round(share, 3)}


def bench_remote(rows: int, latency_ms: int, rounds: int) -> dict[str, object]:
    """Batches of 50, 8 in flight, against a server on this machine that answers after a fixed time."""
    workers, batch = 8, 50
    ideal = workers * batch * 1000 / latency_ms
    rates: list[float] = []
    texts = [f"take {number} {' '.join(random.Random(number).choices(WORDS, k=12))}" for number in range(rows)]
    calls = 0
    with protocol_server(latency_ms) as address, scratch_database("bench_remote") as url:
        provider = OpenAIProvider(
            api_key=SecretStr("none"), base_url=f"{address}/v1", model="text-embedding-3-small", dimensions=768
        )
        insert(url, texts)
        with PostgresDatabase(url, max_connections=8) as database, closing(provider):
            for _ in range(rounds):
                outcome = run(database, provider, workers=workers)
                rates.append(outcome.report.embedded / outcome.report.seconds)
                clear(url)
        calls = count_calls(address)
    rate = statistics.median(rates)
    print(f"remote, {rows:,} rows of 768-D, {latency_ms} ms a request, {workers} in flight, {os.cpu_count()} cores")
    print(
        f"  backfill {rate:,.0f} rows/s, {rate / ideal:.0%} of the ideal {ideal:,.0f}; {calls / rounds:,.0f} calls a run"
    )
    return {"rate": rate, "ideal": ideal, "share": round(rate / ideal, 3), "calls": calls / rounds}


def run(database: Database, provider: EmbeddingProvider, *, workers: int) -> BackfillOutcome:
    outcome = backfill(database, provider, BackfillOptions("music_knowledge", workers=workers))
    if outcome.error:
        raise outcome.error
    return outcome


def insert(url: SecretStr, texts: list[str]) -> None:
    with connect(url) as owner, owner.cursor() as cursor:
        with cursor.copy("copy public.music_knowledge (topic, content) from stdin") as copy:
            for number, text in enumerate(texts):
                copy.write_row((f"{number}", text))
        owner.execute("vacuum analyze")


def clear(url: SecretStr) -> None:
    with connect(url) as owner:
        owner.execute("update public.music_knowledge set embedding = null")
        owner.execute("vacuum public.music_knowledge, embedding.queue")


def read_texts(path: str | None, rows: int) -> list[str]:
    if path is not None:
        with open(path, encoding="utf-8") as lines:
            return [json.loads(line)["text"] for line in lines]
    chooser = random.Random(1)
    return [" ".join(chooser.choices(WORDS, k=chooser.randint(4, 128))) for _ in range(rows)]


@contextmanager
def protocol_server(latency_ms: int) -> Iterator[str]:
    """The server of tests/, in a process of its own, with vectors made beforehand."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.protocol_server", "--latency-ms", str(latency_ms), "--pool", "256"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def count_calls(address: str) -> int:
    import httpx

    return int(httpx.get(f"{address}/report").json()["calls"])


if __name__ == "__main__":
    command.run(main)
