#!/usr/bin/env python3
"""Compares the in-process engine of Tonnetz with plain onnxruntime and sentence-transformers on the same texts.

The compared systems run in a separate environment (.bench/venv, created at the first run), each in a process of its own.
The rounds of the systems alternate. The program prints medians, their ratios, and the smallest cosine between a text's
vector and the vector of plain onnxruntime in float32.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import benchmark
import command
import numpy as np
from scratch import SCRATCH

from shared.providers.onnx.model import find_model
from shared.providers.onnx.provider import OnnxProvider

PEER_PACKAGES = ["sentence-transformers", "torch==2.13.0", "onnxruntime"]
OURS, PLAIN, SENTENCE_TRANSFORMERS = "tonnetz", "onnxruntime", "sentence-transformers"
WARM_UP = 128

# Seconds and vectors of one round.
Round = tuple[float, Any]


def main() -> int:
    parser = benchmark.parser(__doc__, count=(2_000, "texts to make"), rounds=(5, "rounds; each measures every system"))
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="JSON lines with a field text (default: --count texts made from the sample rows)",
    )
    precisions = ("auto", "fp32", "int8")
    parser.add_argument("--precision", choices=precisions, default="auto", help="precision of Tonnetz (default: auto)")
    arguments = parser.parse_args()
    file = arguments.texts
    texts = benchmark.read_texts(file) if file else benchmark.make_texts(arguments.count, 4, 128)
    result = bench(texts, arguments.rounds, arguments.precision)
    print(f"{result['texts']:,} texts, medians of {result['rounds']} rounds, {result['cores']} cores")
    headings = ("engine", "texts/s", "slowest", "fastest", "ours is faster by", "cosine to float32: min", "mean")
    benchmark.print_table(headings, [tuple(row.values()) for row in result["engines"]])
    return benchmark.finish(arguments, result)


def bench(texts: list[str], rounds: int, precision: Any) -> dict[str, Any]:
    rates: dict[str, list[float]] = {OURS: [], PLAIN: [], SENTENCE_TRANSFORMERS: []}
    vectors: dict[str, Any] = {}
    with closing(OnnxProvider(cache_dir=SCRATCH / "models", precision=precision)) as provider, ExitStack() as opened:
        sides = {OURS: ours(provider, texts)} | {
            name: opened.enter_context(peer) for name, peer in peers(texts).items()
        }
        for number in range(rounds):
            for name, embed in sides.items():
                seconds, vectors[name] = embed()
                rates[name].append(len(texts) / seconds)
            latest = ", ".join(f"{name} {measured[-1]:,.0f}" for name, measured in rates.items())
            print(f"round {number + 1} of {rounds}, texts/s: {latest}", file=sys.stderr)
        engine = provider.engine
    rows = []
    for name, measured in rates.items():
        cosines = np.einsum("ij,ij->i", vectors[name].astype(np.float64), vectors[PLAIN].astype(np.float64))
        rows.append(
            {
                "engine": f"{name} ({engine})" if name == OURS else name,
                "texts_per_second": benchmark.median(measured, 1),
                "slowest": round(min(measured), 1),
                "fastest": round(max(measured), 1),
                "ours_is_faster_by": round(benchmark.median(rates[OURS], 4) / benchmark.median(measured, 4), 2),
                "cosine_min": round(float(cosines.min()), 6),
                "cosine_mean": round(float(cosines.mean()), 6),
            }
        )
    return {"texts": len(texts), "rounds": rounds, "cores": os.cpu_count(), "engines": rows}


def ours(provider: OnnxProvider, texts: list[str]) -> Callable[[], Round]:
    """Warm up the engine of Tonnetz; returns a function that measures one round."""
    provider.embed_documents(texts[:WARM_UP])

    def embed() -> Round:
        started = time.perf_counter()
        vectors = provider.embed_documents(texts)
        return time.perf_counter() - started, vectors

    return embed


def peers(texts: list[str]) -> dict[str, Any]:
    """The compared systems by name. Each is a context manager that starts the system."""
    files = find_model(None)
    models, texts_file = SCRATCH / "models", SCRATCH / "engine_texts.json"
    texts_file.write_text(json.dumps(texts))
    with closing(OnnxProvider(cache_dir=models, precision="fp32")) as reference:
        reference.embed_query("so that the graph is built")
    graph = next(models.glob(f"{files.name}-fp32-*.onnx"))
    return {
        PLAIN: peer(PLAIN, texts_file, WARM_UP, files.tokenizer, graph, files.max_tokens),
        SENTENCE_TRANSFORMERS: peer(SENTENCE_TRANSFORMERS, texts_file, WARM_UP, files.tokenizer.parent),
    }


@contextmanager
def peer(name: str, *arguments: object) -> Iterator[Callable[[], Round]]:
    """Start a compared system and warm it up; yields a function that measures one round."""
    python = benchmark.environment_with("venv", PEER_PACKAGES)
    log, output = SCRATCH / f"{name}.log", SCRATCH / "engine_vectors.npy"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [python, Path(__file__).with_name("engine_peer.py"), name, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"},
        ) as process,
    ):  # fmt: skip
        assert process.stdin
        assert process.stdout
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"{name} did not start; see {log}")

        def embed() -> Round:
            assert process.stdin
            assert process.stdout
            print(output, file=process.stdin, flush=True)
            answer = process.stdout.readline()
            if not answer:
                raise SystemExit(f"{name} ended early; see {log}")
            return float(answer), np.load(output)

        yield embed
        process.stdin.close()


if __name__ == "__main__":
    command.run(main)
