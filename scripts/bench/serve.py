#!/usr/bin/env python3
"""The server under load: 64 clients that post one text at a time, against the bare engine and against infinity-emb.

The load comes from a process of its own, on the same machine: connections that are kept open, requests made
beforehand, answers looked at when all have come. Every vector is then compared with the engine's for its text.
infinity-emb (torch engine, the same weights) runs in an environment of its own, .bench/infinity, made at the first run.
"""

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What the benchmarks share lies in the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import command
from bench.scratch import PROJECT, SCRATCH, environment_with, seed_words
from serving import free_port, serving

INFINITY_PACKAGES = ["infinity-emb[torch,server]", "torch==2.13.0"]
WORDS = (50, 70)


@dataclass(frozen=True)
class Server:
    """How to ask one server for one text's vector, and how to read its answer."""

    name: str
    path: str
    body: Callable[[int, str], dict[str, Any]]
    read: Callable[[dict[str, Any], int], list[float]]


def _our_vector(answer: dict[str, Any], number: int) -> list[float]:
    assert answer["batch_id"] == f"b{number}", "an answer to another request"
    vector: list[float] = answer["vectors"][0]["vector"]
    return vector


def _openai_vector(answer: dict[str, Any], _: int) -> list[float]:
    vector: list[float] = answer["data"][0]["embedding"]
    return vector


OURS = Server(
    "tonnetz",
    "/embed",
    lambda number, text: {"batch_id": f"b{number}", "chunks": [{"chunk_id": "c", "content": text}]},
    _our_vector,
)
INFINITY = Server(
    "infinity-emb (torch)",
    "/embeddings",
    lambda _, text: {"model": "all-MiniLM-L6-v2", "input": [text]},
    _openai_vector,
)


def main() -> int:
    parser = command.parser(__doc__, json=command.JSON)
    parser.add_argument("--requests", type=int, default=10_000, help="requests of one text each (default: 10000)")
    parser.add_argument("--clients", type=int, default=64, help="open connections (default: 64)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of engine and server, in turn (default: 3)")
    parser.add_argument("--without-infinity", action="store_true", help="do not compare with infinity-emb")
    arguments = parser.parse_args()
    texts = make_texts(arguments.requests)
    result = bench(texts, arguments.clients, arguments.rounds, infinity=not arguments.without_infinity)
    print_result(result)
    if arguments.json:
        print(json.dumps(result))
    return 0


def bench(texts: Sequence[str], clients: int, rounds: int, *, infinity: bool) -> dict[str, Any]:
    import numpy as np

    from shared.providers.onnx.provider import OnnxProvider

    with closing(OnnxProvider(cache_dir=SCRATCH / "models")) as provider:
        provider.embed_documents(texts[:256])
        expected = provider.embed_documents(texts)
        engine = provider.engine

    engine_rates: list[float] = []
    loads: list[Load] = []
    singles: list[float] = []
    bursts: list[float] = []
    same: list[float] = []
    for number in range(rounds):
        engine_rates.append(engine_rate(texts))
        with our_server() as port:
            asyncio.run(load(port, OURS, texts[:512], clients))
            singles.append(statistics.median(asyncio.run(load(port, OURS, texts[:200], 1)).seconds))
            alone = asyncio.run(load(port, OURS, texts[:200], 1)).rate
            bursts.append(asyncio.run(load(port, OURS, texts[:1000], 200)).rate / alone)
            alone = asyncio.run(load(port, OURS, [texts[0]] * 200, 1)).rate
            same.append(asyncio.run(load(port, OURS, [texts[0]] * 1000, 200)).rate / alone)
            loads.append(asyncio.run(load(port, OURS, texts, clients)))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    cosines = check(OURS, loads[-1], expected)
    result: dict[str, Any] = {
        "requests": len(texts),
        "clients": clients,
        "cores": os.cpu_count(),
        "engine": engine,
        "engine_texts_per_second": round(statistics.median(engine_rates), 1),
        "texts_per_second": round(statistics.median(one.rate for one in loads), 1),
        "share_of_engine": round(statistics.median(a.rate / b for a, b in zip(loads, engine_rates, strict=True)), 3),
        "single_ms": round(statistics.median(singles) * 1000, 2),
        "p50_ms": round(statistics.median(one.percentile(50) for one in loads) * 1000, 1),
        "p99_ms": round(statistics.median(one.percentile(99) for one in loads) * 1000, 1),
        "clients_200_against_one": round(statistics.median(bursts), 2),
        "clients_200_against_one_same_text": round(statistics.median(same), 2),
        "cosine_min": round(float(cosines.min()), 6),
        "wrong": int(np.count_nonzero(cosines < 0.999)),
    }
    result["p99_against_single"] = round(result["p99_ms"] / result["single_ms"], 1)
    if infinity:
        with infinity_server() as port:
            few = texts[: max(len(texts) // 5, 1)]
            asyncio.run(load(port, INFINITY, texts[:256], clients))
            theirs = asyncio.run(load(port, INFINITY, few, clients))
            theirs_checked = check(INFINITY, theirs, expected[: len(few)])
        result["infinity"] = {
            "texts_per_second": round(theirs.rate, 1),
            "p99_ms": round(theirs.percentile(99) * 1000, 1),
            "ours_is_faster_by": round(result["texts_per_second"] / theirs.rate, 2),
            "cosine_mean": round(float(theirs_checked.mean()), 5),
        }
    return result


def print_result(result: dict[str, Any]) -> None:
    print(f"{result['requests']:,} requests of one text each, {result['clients']} clients, {result['cores']} cores")
    print(f"engine, one large batch      {result['engine_texts_per_second']:8,.0f} texts/s  ({result['engine']})")
    print(f"server                       {result['texts_per_second']:8,.0f} texts/s  ({result['share_of_engine']:.0%})")
    print(f"latency p50 / p99            {result['p50_ms']:.0f} / {result['p99_ms']:.0f} ms")
    print(
        f"one client alone             {result['single_ms']:.1f} ms  (p99 is {result['p99_against_single']:.1f} times that)"
    )
    print(
        f"200 clients against one      {result['clients_200_against_one']:.1f} times the throughput, "
        f"{result['clients_200_against_one_same_text']:.1f} times where all send the same text"
    )
    print(
        f"vectors checked              {result['requests']:,}, {result['wrong']} wrong, cosine at least {result['cosine_min']}"
    )
    if theirs := result.get("infinity"):
        print(
            f"infinity-emb, torch          {theirs['texts_per_second']:8,.0f} texts/s, p99 {theirs['p99_ms']:,.0f} ms: "
            f"the server does {theirs['ours_is_faster_by']:.2f} times that"
        )


def make_texts(count: int) -> list[str]:
    """Distinct texts of about 60 of the seed's own words; the same ones every time."""
    words = seed_words()
    chance = random.Random(7)
    return [f"{number} " + " ".join(chance.choices(words, k=chance.randint(*WORDS))) for number in range(count)]


# What an engine does without a server


def engine_rate(texts: Sequence[str]) -> float:
    """Texts a second in one large batch, in a process of its own, so that no other engine holds its threads."""
    program = (
        "import json, sys, time\n"
        "from pathlib import Path\n"
        "from shared.providers.onnx.provider import OnnxProvider\n"
        "texts = json.load(sys.stdin)\n"
        "provider = OnnxProvider(cache_dir=Path(sys.argv[1]))\n"
        "provider.embed_documents(texts[:256])\n"
        "started = time.perf_counter()\n"
        "provider.embed_documents(texts)\n"
        "print(len(texts) / (time.perf_counter() - started))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(SCRATCH / "models")],
        input=json.dumps(list(texts)),
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    return float(done.stdout)


# The load


@dataclass
class Load:
    """What came back: bodies and seconds by request, and texts a second over all."""

    bodies: list[bytes]
    seconds: list[float]
    rate: float

    def percentile(self, percent: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


class Client(asyncio.Protocol):
    """One connection: sends the next request when the last one is answered."""

    def __init__(self, requests: Iterator[tuple[int, bytes]], result: Load, done: asyncio.Future[None]) -> None:
        self._requests = requests
        self._result = result
        self._done = done
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        following = next(self._requests, None)
        if following is None:
            self._transport.close()
            return
        self._number, payload = following
        self._sent = time.perf_counter()
        self._transport.write(payload)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        header = bytes(self._buffer[:head]).lower()
        length = int(header.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self._buffer) < head + 4 + length:
            return
        self._result.seconds[self._number] = time.perf_counter() - self._sent
        body = bytes(self._buffer[head + 4 :])
        if not header.startswith(b"http/1.1 200"):
            self._done.set_exception(RuntimeError(f"{header[:20]!r}: {body[:300]!r}"))
            self._transport.abort()
            return
        self._result.bodies[self._number] = body
        self._buffer.clear()
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)


async def load(port: int, server: Server, texts: Sequence[str], clients: int) -> Load:
    """Post each text once, from that many connections."""
    payloads = []
    for number, text in enumerate(texts):
        body = json.dumps(server.body(number, text)).encode()
        head = (
            f"POST {server.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        payloads.append(head.encode() + body)
    result = Load([b""] * len(texts), [0.0] * len(texts), 0.0)
    queue = iter(enumerate(payloads))
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    ends: list[asyncio.Future[None]] = [loop.create_future() for _ in range(clients)]
    for end in ends:
        await loop.create_connection(lambda end=end: Client(queue, result, end), "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*ends)
    result.rate = len(texts) / (time.perf_counter() - started)
    assert all(result.bodies), "a request was not answered"
    return result


def check(server: Server, answers: Load, expected: Any) -> Any:
    """The cosine of each answer's vector to that of its text."""
    import numpy as np

    vectors = np.array([server.read(json.loads(body), number) for number, body in enumerate(answers.bodies)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.einsum("ij,ij->i", vectors, expected)


# The servers


@contextmanager
def our_server() -> Iterator[int]:
    port = free_port()
    environment = {
        **os.environ,
        "TONNETZ_DATA_DIR": str(SCRATCH),
        "PYTHONPATH": str(PROJECT),
        "LOG_LEVEL": "WARNING",
        "EMBEDDING_PROVIDER": "onnx",
    }
    arguments = [sys.executable, "-m", "functions.local", "--port", port]
    ready = f"http://127.0.0.1:{port}/ready"
    with serving(arguments, ready, folder=PROJECT, environment=environment, log=SCRATCH / "serve.log"):
        yield port


@contextmanager
def infinity_server() -> Iterator[int]:
    from shared.providers.onnx.model import find_model

    executable = environment_with("infinity", INFINITY_PACKAGES).with_name("infinity_emb")
    port = free_port()
    arguments = [
        executable, "v2", "--model-id", str(find_model(None).tokenizer.parent), "--served-model-name", "all-MiniLM-L6-v2",
        "--engine", "torch", "--device", "cpu", "--port", port, "--host", "127.0.0.1",
    ]  # fmt: skip
    variables = {**os.environ, "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    ready = f"http://127.0.0.1:{port}/health"
    with serving(arguments, ready, folder=PROJECT, environment=variables, log=SCRATCH / "serve.log"):
        yield port


if __name__ == "__main__":
    command.run(main)
