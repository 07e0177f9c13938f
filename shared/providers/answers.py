"""Checks the vectors of a provider's answer: their number, their width, and that all numbers are finite."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from shared.errors import ProviderContractError, ProviderWidthError
from shared.models import Vectors

# A vector whose length differs from 1 by more than this is normalised. The length of a normalised vector of 3,072 float32
# numbers differs from 1 by about 1e-6.
UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class WireAnswer:
    """The answer to one request before it is checked: vectors in the order of the inputs.

    `tokens` is None if the server reports no number; it is then estimated. `cut` are the positions of texts that are known
    to be too long for the model. `calls` is the number of requests.
    """

    vectors: Vectors
    tokens: int | None = None
    cut: Sequence[int] = ()
    calls: int = 1


def reported_tokens(count: object) -> int | None:
    """The number of tokens that a server reports; None if it reports none (some servers report 0 instead)."""
    return count if isinstance(count, int) and count > 0 else None


@contextmanager
def paid(tokens: int | None) -> Iterator[None]:
    """Store the tokens in an error that is raised inside, because an unreadable answer has cost them too.

    None means that they have to be estimated.
    """
    try:
        yield
    except ProviderContractError as error:
        error.billed = tokens
        raise


def stack_rows(rows: Sequence[object]) -> Vectors:
    """Convert rows of numbers to one n x width float32 array; null becomes NaN."""
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
    """Return unit vectors as float32, and the indices of rows that cannot be used (NaN, infinite or all zero).

    Raises ProviderContractError if the number of vectors is not the number of texts, ProviderWidthError if their width
    is not that of the model.
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
