"""Projects a sample of a collection's vectors to two dimensions (principal components)."""

import base64
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
from cachetools import LRUCache, TTLCache
from numpy.typing import NDArray

from shared.database.base import Database

MAX_POINTS = 2000
CACHED_MAPS = 32
MAX_AGE_SECONDS = 600.0

# Subspace iteration: number of dimensions of the subspace, and number of iterations.
_WIDTH = 10
_ROUNDS = 40

Matrix = NDArray[np.float64]


# A map with the fields of functions/maps.py: `total` vectors of one model, `sampled` of them, and a point for each.
CollectionMap = dict[str, Any]


class MapService:
    """Computes maps and caches each until its rows change or ten minutes have passed."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        # By collection, limit and category: the version of the sample, and the map.
        self._maps: TTLCache[tuple[str, int, str | None], tuple[str, CollectionMap]]
        self._maps = TTLCache(CACHED_MAPS, MAX_AGE_SECONDS, timer=clock)
        # By collection and model: the axes of the last map, so that the next map is not mirrored.
        self._axes: LRUCache[tuple[str, str | None], Matrix] = LRUCache(CACHED_MAPS)
        self._lock = threading.Lock()

    def get(
        self, collection: str, *, limit: int = MAX_POINTS, category: str | None = None, refresh: bool = False
    ) -> CollectionMap:
        """The map of a collection. If it has vectors of several models, the map shows those of the most frequent model.

        Raises NotFound for a collection that is not tracked, DatabaseRejected if `category` is not a column by which
        points can be coloured.
        """
        key = (collection, limit, category)
        with self._lock:
            version, known = (None, None) if refresh else self._maps.get(key, (None, None))
        sample = self._database.call_scalar(
            "sample_embeddings",
            {"collection": collection, "sample_size": limit, "category_column": category, "known_version": version},
        )
        if known is not None and sample["version"] == version:
            return known
        drawn = self._draw(collection, sample, category)
        with self._lock:
            self._maps[key] = sample["version"], drawn
        return drawn

    def _draw(self, collection: str, sample: dict[str, Any], category: str | None) -> CollectionMap:
        key = (collection, sample["model"])
        with self._lock:
            last = self._axes.get(key)
        ids = sample["ids"]
        positions, explained, axes = project(decode_vectors(sample["vectors"], len(ids)), last)
        with self._lock:
            self._axes[key] = axes
        # Four decimal places are enough: a step of 0.0001 is a fifth of a pixel on the widest screen.
        places = positions.round(4).tolist()
        points = [
            {"id": row_id, "x": x, "y": y, "label": label, "category": shown}
            for row_id, (x, y), label, shown in zip(ids, places, sample["labels"], sample["categories"], strict=True)
        ]
        known = {"collection": collection, "model": sample["model"], "total": sample["total"], "category": category}
        now = datetime.now(UTC)
        return {**known, "sampled": len(ids), "explained": explained, "computed_at": now, "points": points}


def decode_vectors(text: str, count: int) -> Matrix:
    """Decode the vectors that the SQL function returned as a text: count x dimensions."""
    return np.frombuffer(base64.b64decode(text), dtype=">f2").astype(np.float64).reshape(count, -1 if count else 0)


def project(vectors: Matrix, last: Matrix | None = None) -> tuple[Matrix, tuple[float, float], Matrix]:
    """Project n x d vectors to their two principal components.

    Returns n x 2 positions in [-1, 1] (both axes have the same scale), each axis' share of the variance, and the axes
    (d x 2). This uses subspace iteration from a fixed start, because a full decomposition of 2,000 vectors of 1,536
    dimensions takes seconds on a small machine. The sign of an axis is arbitrary: it is chosen to match the `last` axes,
    or, without these, so that the largest weights are positive.
    """
    count = len(vectors)
    centred = vectors - vectors.mean(axis=0) if count else vectors
    variance = float(np.square(centred).sum())
    if count < 2 or variance < 1e-12:
        return np.zeros((count, 2)), (0.0, 0.0), np.zeros((vectors.shape[1], 2))

    width = min(_WIDTH, *centred.shape)
    # numpy.random takes longer to import than a small map takes to draw.
    draw = random.Random(0).gauss
    basis = np.array([draw(0, 1) for _ in range(centred.shape[1] * width)]).reshape(-1, width)
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
    _, strengths, turns = np.linalg.svd(centred @ basis, full_matrices=False)
    axes = (basis @ turns.T)[:, :2]
    if last is not None and last.shape == axes.shape == (centred.shape[1], 2) and last.any():
        alike = axes.T @ last
        if abs(alike[0, 1] * alike[1, 0]) > abs(alike[0, 0] * alike[1, 1]):
            # Two axes of similar variance have swapped.
            axes, strengths, alike = axes[:, ::-1], strengths[[1, 0]], alike[::-1]
        directions = alike.diagonal()
    else:
        # Each axis gets the direction in which the sum of the cubes of its weights is positive. The sign of the largest
        # weight is less stable: after a small change of the vectors, another weight can be the largest.
        directions = (axes**3).sum(axis=0)
    axes = axes * np.where(directions < 0, -1.0, 1.0)

    positions = np.zeros((count, 2))
    positions[:, : axes.shape[1]] = centred @ axes
    shares = [*(np.square(strengths[:2]) / variance).tolist(), 0.0][:2]
    # The shares are rounded, so that the share of an axis without variance is 0.0 and not a tiny number.
    return positions / np.abs(positions).max(), (round(shares[0], 4), round(shares[1], 4)), axes
