#!/usr/bin/env python3
"""Compares the HTTP server under load (64 clients post one text at a time) with the engine alone and with infinity-emb.

A separate process on the same machine sends the requests. It keeps connections open, prepares the requests before the
start, and checks the answers at the end. Every vector is then compared with the vector that the engine computes for the
same text.
infinity-emb (torch engine, the same weights) runs in a separate environment, .bench/infinity, which the first run
creates.
"""

import asyncio
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import benchmark
import command
import numpy as np
from command import ROOT
from scratch import SCRATCH
from serving import FUNCTIONS, serving

from shared.providers.onnx.model import find_model
from shared.providers.onnx.provider import OnnxProvider

INFINITY_PACKAGES = ["infinity-emb[torch,server]", "torch==2.13.0"]
# The fewest and the most words of a text.
WORDS = (50, 70)


def main() -> int:
    parser = benchmark.parser(
        __doc__,
        requests=(10_000, "requests of one text each"),
        clients=(64, "open connections"),
        rounds=(3, "rounds; each measures the engine and the server"),
    )
    parser.add_argument("--without-infinity", action="store_true", help="do not compare with infinity-emb")
    arguments = parser.parse_args()
    texts = benchmark.make_texts(arguments.requests, *WORDS)
    result = bench(texts, arguments.clients, arguments.rounds)
    if not arguments.without_infinity:
        result["infinity"] = bench_infinity(texts, arguments.clients, result["texts_per_second"])
    print_result(result)
    return benchmark.finish(arguments, result)


def bench(texts: list[str], clients: int, rounds: int) -> dict[str, Any]:
    measured = []
    for number in range(rounds):
        figures, answers = one_round(texts, clients)
        measured.append(figures)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    with closing(OnnxProvider(cache_dir=SCRATCH / "models")) as provider:
        cosines = cosines_of(OURS, answers, provider.embed_documents(texts))
        engine = provider.engine
    medians = {name: benchmark.median((figures[name] for figures in measured), 3) for name in measured[0]}
    return {
        "requests": len(texts),
        "clients": clients,
        "cores": os.cpu_count(),
        "engine": engine,
        **medians,
        "cosine_min": round(float(cosines.min()), 6),
        "wrong": int(np.count_nonzero(cosines < 0.999)),
        "p99_against_single": round(medians["p99_ms"] / medians["single_ms"], 1),
    }


def one_round(texts: list[str], clients: int) -> tuple[dict[str, float], "Load"]:
    """The figures of one round, and the answers to all texts."""
    engine = engine_rate(texts)
    log = SCRATCH / "serve.log"
    settings = {"PYTHONPATH": str(ROOT), "TONNETZ_DATA_DIR": str(SCRATCH), "EMBEDDING_PROVIDER": "onnx"}
    environment = {**os.environ, **settings, "LOG_LEVEL": "WARNING"}
    with serving(FUNCTIONS, "/ready", folder=ROOT, environment=environment, log=log) as (url, _):
        ask = partial(load, url, OURS)
        ask(texts[:512], clients)
        single = ask(texts[:200], 1)
        burst = ask(texts[:1000], 200).rate / ask(texts[:200], 1).rate
        same = ask([texts[0]] * 1000, 200).rate / ask([texts[0]] * 200, 1).rate
        answers = ask(texts, clients)
    figures = {
        "engine_texts_per_second": engine,
        "texts_per_second": answers.rate,
        "share_of_engine": answers.rate / engine,
        "single_ms": single.milliseconds(50),
        "p50_ms": answers.milliseconds(50),
        "p99_ms": answers.milliseconds(99),
        "clients_200_against_one": burst,
        "clients_200_against_one_same_text": same,
    }
    return figures, answers


def bench_infinity(texts: list[str], clients: int, our_rate: float) -> dict[str, float]:
    """Measure infinity-emb with a fifth of the texts."""
    weights = find_model(None).tokenizer.parent
    arguments = [
        benchmark.environment_with("infinity", INFINITY_PACKAGES).with_name("infinity_emb"), "v2", "--host", "127.0.0.1",
        "--model-id", weights, "--served-model-name", "all-MiniLM-L6-v2", "--engine", "torch", "--device", "cpu",
    ]  # fmt: skip
    environment = {**os.environ, "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    few = texts[: max(len(texts) // 5, 1)]
    with serving(arguments, "/health", folder=ROOT, environment=environment, log=SCRATCH / "serve.log") as (url, _):
        load(url, INFINITY, texts[:256], clients)
        answers = load(url, INFINITY, few, clients)
    with closing(OnnxProvider(cache_dir=SCRATCH / "models")) as provider:
        cosines = cosines_of(INFINITY, answers, provider.embed_documents(few))
    return {
        "texts_per_second": round(answers.rate, 1),
        "p99_ms": round(answers.milliseconds(99), 1),
        "ours_is_faster_by": round(our_rate / answers.rate, 2),
        "cosine_mean": round(float(cosines.mean()), 5),
    }


def print_result(result: dict[str, Any]) -> None:
    def line(name: str, text: str) -> None:
        print(f"{name:<28} {text}")

    print(f"{result['requests']:,} requests of one text each, {result['clients']} clients, {result['cores']} cores")
    line("engine, one large batch", f"{result['engine_texts_per_second']:8,.0f} texts/s  ({result['engine']})")
    line("server", f"{result['texts_per_second']:8,.0f} texts/s  ({result['share_of_engine']:.0%})")
    line("latency p50 / p99", f"{result['p50_ms']:.0f} / {result['p99_ms']:.0f} ms")
    line("one client alone", f"{result['single_ms']:.1f} ms  (p99 is {result['p99_against_single']:.1f} times that)")
    same = f"{result['clients_200_against_one_same_text']:.1f} times if all send the same text"
    line("200 clients, not one", f"{result['clients_200_against_one']:.1f} times the throughput, {same}")
    checked = f"{result['requests']:,}, {result['wrong']} wrong, cosine at least {result['cosine_min']}"
    line("vectors checked", checked)
    if theirs := result.get("infinity"):
        faster = f"the server does {theirs['ours_is_faster_by']:.2f} times that"
        rate = f"{theirs['texts_per_second']:8,.0f} texts/s, p99 {theirs['p99_ms']:,.0f} ms"
        line("infinity-emb, torch", f"{rate}: {faster}")


def engine_rate(texts: list[str]) -> float:
    """Measure texts per second in one large batch. It uses a new process, because threads of another engine would slow it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_engine_rate, texts).result()


def _engine_rate(texts: list[str]) -> float:
    with closing(OnnxProvider(cache_dir=SCRATCH / "models")) as provider:
        provider.embed_documents(texts[:256])
        started = time.perf_counter()
        provider.embed_documents(texts)
        return len(texts) / (time.perf_counter() - started)


@dataclass(frozen=True)
class Server:
    """How to ask one server for one text's vector, and how to read its answer."""

    path: str
    body: Callable[[int, str], dict[str, Any]]
    read: Callable[[dict[str, Any], int], list[float]]


def _our_vector(answer: dict[str, Any], number: int) -> list[float]:
    assert answer["batch_id"] == f"b{number}", "an answer to another request"
    vector: list[float] = answer["vectors"][0]["vector"]
    return vector


OURS = Server(
    "/embed",
    lambda number, text: {"batch_id": f"b{number}", "chunks": [{"chunk_id": "c", "content": text}]},
    _our_vector,
)
INFINITY = Server(
    "/embeddings",
    lambda _, text: {"model": "all-MiniLM-L6-v2", "input": [text]},
    lambda answer, _: list(answer["data"][0]["embedding"]),
)


@dataclass
class Load:
    """The result of a load: body and seconds of each answer, and the texts per second of all of them."""

    bodies: list[bytes]
    seconds: list[float]
    rate: float = 0.0

    def milliseconds(self, percent: float) -> float:
        return 1000 * float(np.percentile(self.seconds, percent))


def load(url: str, server: Server, texts: list[str], clients: int) -> Load:
    """Post each text once, over `clients` connections."""
    address = urlsplit(url).netloc
    head = f"POST {server.path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: "
    bodies = [json.dumps(server.body(number, text)) for number, text in enumerate(texts)]
    requests = iter(enumerate([f"{head}{len(body)}\r\n\r\n{body}".encode() for body in bodies]))
    result = Load([b""] * len(texts), [0.0] * len(texts))

    async def post_all() -> None:
        await asyncio.gather(*(client(address, requests, result) for _ in range(clients)))

    started = time.perf_counter()
    asyncio.run(post_all())
    result.rate = len(texts) / (time.perf_counter() - started)
    assert all(result.bodies), "a request was not answered"
    return result


async def client(address: str, requests: Iterator[tuple[int, bytes]], result: Load) -> None:
    """One connection: sends the next request when the last one is answered."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for number, payload in requests:
        sent = time.perf_counter()
        writer.write(payload)
        header = (await reader.readuntil(b"\r\n\r\n")).lower()
        body = await reader.readexactly(int(header.split(b"content-length:")[1].split(b"\r\n")[0]))
        result.seconds[number], result.bodies[number] = time.perf_counter() - sent, body
        if not header.startswith(b"http/1.1 200"):
            raise RuntimeError(f"{header[:20]!r}: {body[:300]!r}")
    writer.close()


def cosines_of(server: Server, answers: Load, expected: Any) -> Any:
    """The cosine between the vector in each answer and the expected vector of its text."""
    vectors = np.array([server.read(json.loads(body), number) for number, body in enumerate(answers.bodies)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.einsum("ij,ij->i", vectors, expected)


if __name__ == "__main__":
    command.run(main)
