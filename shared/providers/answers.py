"""Checks a provider's answer: number, width and finiteness of its vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.errors import ProviderContractError, ProviderWidthError
from shared.models import Vectors

# float32 sums of 3072 squares are off by about 1e-6; models that normalise stay far within this.
UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class WireAnswer:
    """What one request returned, before any check: vectors in the order of the inputs.

    `tokens` and `truncated` are None if the server reports nothing; the base class then counts.
    """

    vectors: Vectors
    tokens: int | None = None
    truncated: int | None = None


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
