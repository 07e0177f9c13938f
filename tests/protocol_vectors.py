"""Computes the vectors of the protocol server: deterministic, and similar for texts with common words."""

import base64
import json
import re
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=5_000)
def tokenize(text: str) -> tuple[str, ...]:
    """Split a text into lower-case words and signs, the tokens that the server counts and embeds."""
    return tuple(re.findall(r"\w+|[^\w\s]", text.lower()))


@lru_cache(maxsize=100_000)
def _direction(token: str, dimensions: int) -> NDArray[np.float64]:
    return np.random.default_rng(crc32(token.encode())).standard_normal(dimensions)


def embed(text: str, dimensions: int) -> NDArray[np.float32]:
    """A unit vector: the sum of hashed directions of the text's tokens."""
    total = np.sum([_direction(token, dimensions) for token in tokenize(text) or ("",)], axis=0)
    unit: NDArray[np.float32] = (total / np.linalg.norm(total)).astype(np.float32)
    return unit


def encode(row: NDArray[np.float32] | list[Any] | None, encoding: str) -> str | list[Any] | None:
    """Encode a vector for the answer: a list of numbers, or base64 of float32."""
    if not isinstance(row, np.ndarray):
        return row
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    # The numbers are rounded to nine digits, like those that servers send.
    numbers: list[Any] = row.astype(str).astype(np.float64).tolist()
    return numbers


@lru_cache(maxsize=20_000)
def pooled_json(text: str, dimensions: int, encoding: str) -> str:
    """The JSON of a vector, computed once, so that a benchmark measures the client and not this server."""
    return json.dumps(encode(embed(text, dimensions), encoding))
