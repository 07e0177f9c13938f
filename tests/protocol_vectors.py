"""The vectors of the protocol server: deterministic, and near each other where texts share words."""

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
    """Words and signs, lower case: what the server counts and embeds."""
    return tuple(re.findall(r"\w+|[^\w\s]", text.lower()))


@lru_cache(maxsize=100_000)
def _direction(token: str, dimensions: int) -> NDArray[np.float64]:
    return np.random.default_rng(crc32(token.encode())).standard_normal(dimensions)


def embed(text: str, dimensions: int) -> NDArray[np.float32]:
    """A unit vector: the sum of the directions that the text's tokens hash to."""
    total = np.sum([_direction(token, dimensions) for token in tokenize(text) or ("",)], axis=0)
    unit: NDArray[np.float32] = (total / np.linalg.norm(total)).astype(np.float32)
    return unit


def encode(row: NDArray[np.float32] | list[Any] | None, encoding: str) -> str | list[Any] | None:
    """A vector as it goes into the answer: a list of numbers, or base64 of float32."""
    if not isinstance(row, np.ndarray):
        return row
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    # By way of text, which has the nine digits that servers send, not the seventeen of a double.
    numbers: list[Any] = row.astype(str).astype(np.float64).tolist()
    return numbers


@lru_cache(maxsize=20_000)
def pooled_json(text: str, dimensions: int, encoding: str) -> str:
    """The JSON of a vector, made once: a bench is to measure the client, not this server."""
    return json.dumps(encode(embed(text, dimensions), encoding))
