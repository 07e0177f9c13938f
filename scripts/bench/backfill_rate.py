#!/usr/bin/env python3
"""Compares a backfill with its limit: the bare engine on the same texts, or a provider that answers after 100 ms.

Both are measured alternately; prints medians and their ratio.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import benchmark
import command
import httpx
from pydantic import SecretStr
from scratch import SCRATCH, embed_pending, scratch_database

from shared.database.base import Database
from shared.database.postgres import PostgresDatabase, connect
from shared.embedding.collection import Collection
from shared.providers.base import EmbeddingProvider
from shared.providers.onnx.provider import OnnxProvider
from shared.providers.openai.provider import OpenAIProvider
from tests.pgbouncer import PgBouncer


def main() -> int:
    parser = benchmark.parser(
        __doc__,
        rows=(2_000, "texts for the engine, without --texts"),
        rounds=(3, "rounds, both sides in turn"),
        remote_rows=(20_000, "rows for the remote provider"),
        latency_ms=(100, "its time to answer"),
    )
    parser.add_argument("--texts", type=Path, metavar="FILE", help="JSON lines with a field text")
    parser.add_argument("--pooler", action="store_true", help="also measure remote through PgBouncer, transaction mode")
    parser.add_argument("--only", choices=("engine", "remote"), help="measure one of the two (default: both)")
    arguments = parser.parse_args()
    result: dict[str, object] = {"cores": os.cpu_count()}
    if arguments.only != "remote":
        file = arguments.texts
        texts = benchmark.read_texts(file) if file else benchmark.make_texts(arguments.rows, 4, 128)
        result["engine"] = bench_engine(texts, arguments.rounds)
    if arguments.only != "engine":
        result["remote"] = bench_remote(
            arguments.remote_rows, arguments.latency_ms, arguments.rounds, pooled=arguments.pooler
        )
    return benchmark.finish(arguments, result)


def bench_engine(texts: list[str], rounds: int) -> dict[str, object]:
    """The same distinct texts through provider.embed alone, and through the database."""
    alone: list[float] = []
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
            seconds = time.perf_counter() - started
            rate = backfill_rate(url, database, provider, 4)
            if number:  # the first round warms both up
                alone.append(len(texts) / seconds)
                whole.append(rate)
    bare, rate = benchmark.median(alone, 1), benchmark.median(whole, 1)
    print(f"engine, {len(texts):,} texts, medians of {rounds} rounds, {os.cpu_count()} cores")
    print(f"  provider.embed alone {bare:8,.0f} texts/s")
    print(f"  backfill             {rate:8,.0f} rows/s, {rate / bare:.0%} of it")
    return {"alone": bare, "backfill": rate, "share": round(rate / bare, 3)}


def bench_remote(rows: int, latency_ms: int, rounds: int, *, pooled: bool) -> dict[str, object]:
    """Batches of 50, 8 in flight, against a server on this machine that answers after a fixed time."""
    workers, batch = 8, 50
    ideal = workers * batch * 1000 / latency_ms
    with protocol_server(latency_ms) as address, scratch_database("bench_remote") as url, ExitStack() as stack:
        provider = stack.enter_context(closing(remote_provider(address)))
        insert(url, benchmark.make_texts(rows, 12, 12))
        addresses = {"direct": url}
        if pooled:
            addresses["pooled"] = stack.enter_context(PgBouncer(url, "transaction")).url(url)
        databases = {
            way: stack.enter_context(PostgresDatabase(one, max_connections=workers)) for way, one in addresses.items()
        }
        measured: dict[str, list[float]] = {way: [] for way in databases}
        for _ in range(rounds):
            for way, database in databases.items():
                measured[way].append(backfill_rate(url, database, provider, workers))
        calls = int(httpx.get(f"{address}/report").json()["calls"]) / rounds / len(databases)
    rate = benchmark.median(measured["direct"], 1)
    print(f"remote, {rows:,} rows of 768-D, {latency_ms} ms a request, {workers} in flight, {os.cpu_count()} cores")
    print(f"  backfill {rate:,.0f} rows/s, {rate / ideal:.0%} of the ideal {ideal:,.0f}; {calls:,.0f} calls a run")
    result: dict[str, object] = {"rate": rate, "ideal": ideal, "share": round(rate / ideal, 3), "calls": calls}
    if pooled:
        through = benchmark.median(measured["pooled"], 1)
        print(f"  through PgBouncer in transaction mode {through:,.0f} rows/s, {through / rate:.0%} of the direct rate")
        result |= {"pooled": through, "pooled_share": round(through / rate, 3)}
    return result


def remote_provider(address: str) -> OpenAIProvider:
    """Asks the test server for vectors of 768 dimensions."""
    return OpenAIProvider(
        api_key=SecretStr("none"), base_url=f"{address}/v1", model="text-embedding-3-small", dimensions=768
    )


def insert(url: SecretStr, texts: list[str]) -> None:
    with connect(url) as owner, owner.cursor() as cursor:
        with cursor.copy("copy public.music_knowledge (topic, content) from stdin") as copy:
            for number, text in enumerate(texts):
                copy.write_row((f"{number}", text))
        owner.execute("vacuum analyze")


def backfill_rate(url: SecretStr, database: Database, provider: EmbeddingProvider, workers: int) -> float:
    """The rows a second of one backfill, whose vectors are verified. Afterwards all rows are pending again."""
    outcome = embed_pending(database, provider, "music_knowledge", workers)
    wrong = Collection(database, "music_knowledge").verify_embeddings()
    if outcome.report.failed or outcome.left.pending or wrong:
        raise RuntimeError(f"{outcome.report.failed} failed, {outcome.left.pending} left, {wrong} wrong vectors")
    with connect(url) as owner:
        owner.execute("update public.music_knowledge set embedding = null")
        owner.execute("vacuum public.music_knowledge, embedding.queue")
    return outcome.report.embedded / outcome.report.seconds


@contextmanager
def protocol_server(latency_ms: int) -> Iterator[str]:
    """The test server of tests/ in a separate process, with vectors that are computed in advance."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.protocol_server", "--latency-ms", str(latency_ms), "--pool", "256"],
        cwd=command.ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


if __name__ == "__main__":
    command.run(main)
