"""Texts, tokens and vectors for the tests of the in-process engine."""

import random
from pathlib import Path

from tests.unit.small_bert import MAX_TOKENS, WORDS, small_tokenizer

LOSSLESS = 0.999


def phrases(count: int, seed: int = 5) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS[:-2], k=chance.randint(1, 25))) for _ in range(count)]


def ids_of(text: str) -> list[int]:
    tokenizer = small_tokenizer()
    tokenizer.enable_truncation(MAX_TOKENS)
    ids: list[int] = tokenizer.encode(text).ids
    return ids


def graphs(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_file())
