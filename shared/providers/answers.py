"""Checks a provider's answer: number, width and finiteness of its vectors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from shared.errors import ProviderContractError, ProviderWidthError
from shared.models import Vectors

# A vector whose length differs from 1 by more is normalised. The length of a normalised vector of 3,072 float32 numbers
# differs by about 1e-6.
UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class WireAnswer:
    """What one request returned, before any check: vectors in the order of the inputs.

    `tokens` are None if the server reports nothing; they are then estimated. `cut` are the places of the texts that
    are known to be longer than the model reads, `calls` the requests it took.
    """

    vectors: Vectors
    tokens: int | None = None
    cut: Sequence[int] = ()
    calls: int = 1


def reported_tokens(count: object) -> int | None:
    """A server's count of tokens. None if there is no count; some servers then report 0."""
    return count if isinstance(count, int) and count > 0 else None


@contextmanager
def paid(tokens: int | None) -> Iterator[None]:
    """Store the tokens in an error that is raised inside: an unreadable answer has cost them, too (None: as estimated)."""
    try:
        yield
    except ProviderContractError as error:
        error.billed = tokens
        raise


def stack_rows(rows: Sequence[object]) -> Vectors:
    """Rows of numbers as one n x width float32 array; null numbers become NaN."""
    if not rows:
        return np.empty((0, 0), dtype=np.float32)
    try:
        vectors = np.asarray(rows, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ProviderContractError("the provider's vectors are not rows of numbers of equal width") from error
    if vectors.ndim != 2:
        raise ProviderContractError("the provider's answer is not a list of vectors")
    return vectors


def check_answer(vectors: Vectors, count: int, dimensions: int, model: str) -> tuple[Vectors, list[int]]:
    """Returns unit vectors as float32, and the indices of rows that cannot be used (NaN, infinite or all zero).

    Raises ProviderContractError if the number of vectors is not the number of texts, ProviderWidthError if their width
    is not the model's.
    """
    if vectors.ndim != 2 or len(vectors) != count:
        raise ProviderContractError(f"the provider answered {len(vectors)} vectors to {count} texts")
    if vectors.shape[1] != dimensions:
        raise ProviderWidthError(
            f"the provider's vectors have {vectors.shape[1]} dimensions, but {model} has {dimensions}: "
            "check EMBEDDING_MODEL and EMBEDDING_DIMENSIONS"
        )
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    usable = np.isfinite(norms) & (norms > 0)
    off = usable & (np.abs(norms - 1) > UNIT_TOLERANCE)
    unit = np.array(vectors, dtype=np.float32)
    if off.any():
        unit[off] = (vectors[off] / norms[off, None]).astype(np.float32)
    return unit, np.flatnonzero(~usable).tolist()
