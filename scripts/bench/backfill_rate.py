#!/usr/bin/env python3
"""Compares the rate of a backfill with the highest possible rate, and prints medians and their ratio.

With the in-process model, the highest possible rate is that of the engine alone on the same texts; both are measured
alternately. With a remote provider, it is the rate of 8 requests at a time to a test server that answers after 100 ms. For
the remote provider the program also prints how much CPU time each program used: if nearly all of the CPU was busy, the CPU
limits the backfill.
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
import psutil
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
        rows=(2_000, "texts for the in-process model, if --texts is not given"),
        rounds=(3, "rounds; each measures both rates"),
        remote_rows=(20_000, "rows for the remote provider"),
        latency_ms=(100, "milliseconds in which the remote provider answers"),
    )
    parser.add_argument("--texts", type=Path, metavar="FILE", help="JSON lines with a field text")
    parser.add_argument(
        "--pooler", action="store_true", help="also measure the remote provider with PgBouncer in transaction mode"
    )
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
    """Embed the same texts with the provider alone, and in a backfill."""
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
            rate, _ = backfill_rate(url, database, provider, 4)
            if number:  # the first round is only a warm-up
                alone.append(len(texts) / seconds)
                whole.append(rate)
    bare, rate = benchmark.median(alone, 1), benchmark.median(whole, 1)
    print(f"engine, {len(texts):,} texts, medians of {rounds} rounds, {os.cpu_count()} cores")
    print(f"  provider.embed alone {bare:8,.0f} texts/s")
    print(f"  backfill             {rate:8,.0f} rows/s, {rate / bare:.0%} of that")
    return {"alone": bare, "backfill": rate, "share": round(rate / bare, 3)}


def bench_remote(rows: int, latency_ms: int, rounds: int, *, pooled: bool) -> dict[str, object]:
    """Run backfills with batches of 50 and 8 requests at a time. A server on this machine answers after a fixed time."""
    workers, batch = 8, 50
    ideal = workers * batch * 1000 / latency_ms
    usage: list[dict[str, float]] = []
    with (
        protocol_server(latency_ms) as (address, server),
        scratch_database("bench_remote") as url,
        ExitStack() as stack,
    ):
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
                rate, shares = backfill_rate(url, database, provider, workers, server)
                measured[way].append(rate)
                if way == "direct":
                    usage.append(shares)
        calls = int(httpx.get(f"{address}/report").json()["calls"]) / rounds / len(databases)
    rate = benchmark.median(measured["direct"], 1)
    print(f"remote, {rows:,} rows of 768-D, {latency_ms} ms a request, {workers} in flight, {os.cpu_count()} cores")
    print(f"  backfill {rate:,.0f} rows/s, {rate / ideal:.0%} of the ideal {ideal:,.0f}; {calls:,.0f} calls a run")
    cpu = {name: benchmark.median((use[name] for use in usage), 2) for name in usage[0]}
    programs = ", ".join(f"{name} {share:.0%}" for name, share in cpu.items() if name != "busy")
    print(f"  of the CPU {cpu['busy']:.0%} was busy: {programs}")
    result: dict[str, object] = {
        "rate": rate,
        "ideal": ideal,
        "share": round(rate / ideal, 3),
        "calls": calls,
        "cpu": cpu,
    }
    if pooled:
        through = benchmark.median(measured["pooled"], 1)
        print(f"  through PgBouncer in transaction mode {through:,.0f} rows/s, {through / rate:.0%} of the direct rate")
        result |= {"pooled": through, "pooled_share": round(through / rate, 3)}
    return result


def remote_provider(address: str) -> OpenAIProvider:
    """A provider that asks the test server for vectors of 768 dimensions."""
    return OpenAIProvider(
        api_key=SecretStr("none"), base_url=f"{address}/v1", model="text-embedding-3-small", dimensions=768
    )


def insert(url: SecretStr, texts: list[str]) -> None:
    with connect(url) as owner, owner.cursor() as cursor:
        with cursor.copy("copy public.music_knowledge (topic, content) from stdin") as copy:
            for number, text in enumerate(texts):
                copy.write_row((f"{number}", text))
        owner.execute("vacuum analyze")


def backfill_rate(
    url: SecretStr, database: Database, provider: EmbeddingProvider, workers: int, provider_process: int | None = None
) -> tuple[float, dict[str, float]]:
    """Run a backfill; returns the rows per second, and the share of the CPU that each program used (see cpu_seconds).

    Verifies every vector. Afterwards all rows are pending again.
    """
    before, started = cpu_seconds(url, provider_process), time.perf_counter()
    outcome = embed_pending(database, provider, "music_knowledge", workers)
    available = (time.perf_counter() - started) * (os.cpu_count() or 1)
    used = cpu_seconds(url, provider_process)
    wrong = Collection(database, "music_knowledge").verify_embeddings()
    if outcome.report.failed or outcome.left.pending or wrong:
        raise RuntimeError(f"{outcome.report.failed} failed, {outcome.left.pending} left, {wrong} wrong vectors")
    with connect(url) as owner:
        owner.execute("update public.music_knowledge set embedding = null")
        owner.execute("vacuum public.music_knowledge, embedding.queue")
    return outcome.report.embedded / outcome.report.seconds, {
        name: (seconds - before[name]) / available for name, seconds in used.items()
    }


def cpu_seconds(url: SecretStr, provider_process: int | None) -> dict[str, float]:
    """Read the CPU seconds until now: of all cores together (`busy`), and of each program of the benchmark."""
    with connect(url) as owner:
        postgres = psutil.Process(owner.info.backend_pid).parent()
        assert postgres is not None
        own = postgres.cpu_times()
        # children_user and children_system count the processes of connections that have ended.
        database = own.user + own.system + own.children_user + own.children_system
        database += sum(map(process_seconds, postgres.children()))
    machine = psutil.cpu_times()
    return {
        "busy": sum(machine[:]) - machine.idle - getattr(machine, "iowait", 0.0) - getattr(machine, "guest", 0.0),
        "backfill": time.process_time(),
        "database": database,
        "provider": process_seconds(psutil.Process(provider_process)) if provider_process else 0.0,
    }


def process_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def protocol_server(latency_ms: int) -> Iterator[tuple[str, int]]:
    """Run the test server of tests/, which computes its vectors in advance; yields its address and process id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.protocol_server", "--latency-ms", str(latency_ms), "--pool", "256"],
        cwd=command.ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


if __name__ == "__main__":
    command.run(main)
