#!/usr/bin/env python3
"""Runs sentence-transformers or plain onnxruntime, which engine.py compares with the in-process engine of Tonnetz.

It runs in an environment without the project's packages.

After a warm-up it prints `ready` on stdout. Then it reads paths from stdin, one in each line. For each path it embeds all
texts, writes the vectors to the path and prints the number of seconds.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def sentence_transformers(directory: str) -> Any:
    from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]

    model = SentenceTransformer(directory, device="cpu")
    return lambda texts: model.encode(texts, show_progress_bar=False)


def plain_onnxruntime(tokenizer_file: str, graph: str, max_tokens: str) -> Any:
    """Compute batches of 32 texts one after another, each on all cores. Texts are sorted by length, to need little padding."""
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
    name, texts_file, warm_up, *options = sys.argv[1:]
    embed = plain_onnxruntime(*options) if name == "onnxruntime" else sentence_transformers(*options)
    texts = json.loads(Path(texts_file).read_text())
    embed(texts[: int(warm_up)])
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        vectors = embed(texts)
        seconds = time.perf_counter() - started
        np.save(line.strip(), vectors)
        print(seconds, flush=True)
