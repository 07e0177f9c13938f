#!/usr/bin/env python3
"""The engine against its peers on the same mixed texts: plain onnxruntime, and sentence-transformers.

The peers run in an environment of their own (.bench/venv, made at the first run), each a process that
stays up and answers one round after another, so that rounds are interleaved. Printed are medians,
their ratio, and the cosine of every text's vector to that of plain onnxruntime in float32.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

SCRATCH = Path(__file__).resolve().parents[2] / ".bench"
PEER_PACKAGES = ["sentence-transformers", "torch==2.13.0", "onnxruntime"]
OURS, PLAIN, SENTENCE_TRANSFORMERS = "tonnetz", "onnxruntime", "sentence-transformers"
SHORTEST, LONGEST = 4, 128
WARM_UP = 128


def main() -> int:
    import command

    parser = command.parser(__doc__, json=command.JSON)
    parser.add_argument("--texts", type=Path, metavar="FILE", help="JSON lines with a field text (default: made here)")
    parser.add_argument("--count", type=int, default=2_000, help="texts to make (default: 2000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, the engines in turn (default: 5)")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "int8"), default="auto", help="of our engine (default: auto)"
    )
    arguments = parser.parse_args()
    texts = read_texts(arguments.texts) if arguments.texts else make_texts(arguments.count)
    result = bench(texts, arguments.rounds, arguments.precision)
    print_table(result)
    if arguments.json:
        print(json.dumps(result))
    return 0


def bench(texts: Sequence[str], rounds: int, precision: Any) -> dict[str, Any]:
    import numpy as np
    from bench.scratch import environment_with

    from shared.providers.onnx.model import find_model
    from shared.providers.onnx.provider import OnnxProvider

    files = find_model(None)
    models = SCRATCH / "models"
    python = environment_with("venv", PEER_PACKAGES)
    texts_file = SCRATCH / "engine_texts.json"
    texts_file.write_text(json.dumps(list(texts)))
    with closing(OnnxProvider(cache_dir=models, precision="fp32")) as reference:
        reference.embed_query("so that the graph is built")
    graph = next(models.glob(f"{files.name}-fp32-*.onnx"))

    rates: dict[str, list[float]] = {OURS: [], PLAIN: [], SENTENCE_TRANSFORMERS: []}
    vectors: dict[str, Any] = {}
    with (
        closing(OnnxProvider(cache_dir=models, precision=precision)) as provider,
        peer(python, PLAIN, texts_file, str(files.tokenizer), str(graph), str(files.max_tokens)) as plain,
        peer(python, SENTENCE_TRANSFORMERS, texts_file, str(files.tokenizer.parent)) as sentence_transformers,
    ):
        provider.embed_documents(texts[:WARM_UP])
        for number in range(rounds):
            started = time.perf_counter()
            vectors[OURS] = provider.embed_documents(texts)
            rates[OURS].append(len(texts) / (time.perf_counter() - started))
            for name, process in ((PLAIN, plain), (SENTENCE_TRANSFORMERS, sentence_transformers)):
                seconds, vectors[name] = one_round(process)
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
                "texts_per_second": round(statistics.median(measured), 1),
                "slowest": round(min(measured), 1),
                "fastest": round(max(measured), 1),
                "ours_is_faster_by": round(statistics.median(rates[OURS]) / statistics.median(measured), 2),
                "cosine_min": round(float(cosines.min()), 6),
                "cosine_mean": round(float(cosines.mean()), 6),
            }
        )
    return {"texts": len(texts), "rounds": rounds, "cores": os.cpu_count(), "engines": rows}


def print_table(result: dict[str, Any]) -> None:
    print(f"{result['texts']:,} texts, medians of {result['rounds']} interleaved rounds, {result['cores']} cores")
    print(
        f"{'engine':28} {'texts/s':>8} {'slowest':>8} {'fastest':>8} {'ours':>7}  {'cosine to float32: min':>22} {'mean':>9}"
    )
    for row in result["engines"]:
        print(
            f"{row['engine']:28} {row['texts_per_second']:8,.0f} {row['slowest']:8,.0f} {row['fastest']:8,.0f} "
            f"{row['ours_is_faster_by']:6.2f}x  {row['cosine_min']:22.6f} {row['cosine_mean']:9.6f}"
        )


def read_texts(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines if line.strip()]
    return [text for text in texts if text]


def make_texts(count: int) -> list[str]:
    """Runs of the seed's own words, between four and 128 of them; the same ones every time."""
    from bench.scratch import seed_words

    words = seed_words()
    chance = random.Random(11)
    texts = []
    for _ in range(count):
        length = chance.randint(SHORTEST, LONGEST)
        start = chance.randrange(max(1, len(words) - length))
        texts.append(" ".join(words[start : start + length]))
    return texts


Peer = subprocess.Popen[str]


@contextmanager
def peer(python: Path, name: str, *arguments: object) -> Iterator[Peer]:
    """A peer that is loaded and warm; it ends when its stdin does."""
    log = SCRATCH / f"{name}.log"
    command_line = [str(python), str(Path(__file__).resolve()), "--peer", name, *map(str, arguments)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        if answer_of(process) != "ready":
            raise SystemExit(f"{name} did not start; see {log}")
        yield process
        assert process.stdin
        process.stdin.close()


def answer_of(process: Peer) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def one_round(process: Peer) -> tuple[float, Any]:
    import numpy as np

    assert process.stdin
    output = SCRATCH / "engine_vectors.npy"
    print(output, file=process.stdin, flush=True)
    answer = answer_of(process)
    if not answer:
        raise SystemExit(f"a peer ended early; see the logs in {SCRATCH}")
    return float(answer), np.load(output)


def serve_peer(name: str, texts_file: str, *arguments: str) -> int:
    """Runs in the peers' environment: a path on stdin is a round; its seconds are the answer."""
    import numpy as np

    texts = json.loads(Path(texts_file).read_text())
    embed = plain_onnxruntime(*arguments) if name == PLAIN else sentence_transformers(*arguments)
    embed(texts[:WARM_UP])
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        vectors = embed(texts)
        seconds = time.perf_counter() - started
        np.save(line.strip(), vectors)
        print(seconds, flush=True)
    return 0


def sentence_transformers(directory: str) -> Any:
    # Of the peers' environment, unknown to ours.
    from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]

    model = SentenceTransformer(directory, device="cpu")
    return lambda texts: model.encode(texts, show_progress_bar=False)


def plain_onnxruntime(tokenizer_file: str, graph: str, max_tokens: str) -> Any:
    """onnxruntime as it comes, all cores on one batch after another, sorted by length so that little is padded."""
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(tokenizer_file)
    tokenizer.no_padding()
    tokenizer.enable_truncation(int(max_tokens))

    def embed(texts: list[str]) -> Any:
        sequences = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
        order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
        vectors = None
        for start in range(0, len(order), 32):
            batch = order[start : start + 32]
            ids = np.zeros((len(batch), max(len(sequences[index]) for index in batch)), dtype=np.int64)
            mask = np.zeros_like(ids)
            for row, index in enumerate(batch):
                ids[row, : len(sequences[index])] = sequences[index]
                mask[row, : len(sequences[index])] = 1
            (answer,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
            if vectors is None:
                vectors = np.empty((len(texts), answer.shape[1]), dtype=np.float32)
            vectors[batch] = answer
        return vectors

    return embed


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        sys.exit(serve_peer(*sys.argv[2:]))
    # What the benchmarks share lies in the folder above. A peer's environment does not have what it imports.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import command

    command.run(main)
