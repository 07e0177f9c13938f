"""Tests the map: two principal components with a stable orientation."""

import base64

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.search.map import decode_vectors, project


def cloud(count: int, dimensions: int, seed: int = 1) -> NDArray[np.float64]:
    """Unit vectors around a few centres, like those of texts on a few subjects."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((5, dimensions))
    vectors = centres[random.integers(0, 5, count)] + 0.5 * random.standard_normal((count, dimensions))
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


@pytest.mark.parametrize(("count", "dimensions"), [(2000, 384), (300, 768), (30, 384), (500, 16)])
def test_the_axes_are_those_of_a_whole_decomposition(count: int, dimensions: int) -> None:
    vectors = cloud(count, dimensions)
    centred = vectors - vectors.mean(axis=0)
    left, strengths, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :2] * strengths[:2]

    positions, explained, _ = project(vectors)
    for axis in range(2):
        assert abs(np.corrcoef(positions[:, axis], expected[:, axis])[0, 1]) > 0.9999
    assert explained == pytest.approx(np.square(strengths[:2]) / np.square(strengths).sum(), abs=1e-3)
    assert positions.std(axis=0)[0] / positions.std(axis=0)[1] == pytest.approx(strengths[0] / strengths[1], rel=1e-3)


def test_positions_fill_the_square_and_do_not_leave_it() -> None:
    positions, _, _ = project(cloud(500, 64))
    assert np.abs(positions).max() == pytest.approx(1.0)
    assert np.abs(positions.mean(axis=0)).max() < 1e-9


def test_the_map_does_not_flip_when_a_few_rows_change() -> None:
    vectors = cloud(400, 64)
    before, _, axes = project(vectors)
    for change in range(1, 20):
        changed = np.vstack([vectors[change:], cloud(change, 64, seed=change + 2)])
        after, _, axes = project(changed, axes)
        kept = len(vectors) - change
        for axis in range(2):
            assert np.corrcoef(before[change:, axis], after[:kept, axis])[0, 1] > 0.9, f"flipped at {change}"


@pytest.mark.parametrize("swapped", [False, True])
def test_the_map_keeps_the_directions_of_the_last_one(swapped: bool) -> None:
    vectors = cloud(400, 64)
    _, shares, axes = project(vectors)
    last = axes[:, ::-1] if swapped else axes
    positions, again, kept = project(vectors, last * [-1.0, 1.0])
    assert kept == pytest.approx(last * [-1.0, 1.0])
    assert again == (shares[::-1] if swapped else shares)
    assert np.abs(positions).max() == pytest.approx(1.0)


def test_the_map_does_not_depend_on_the_order_of_the_vectors() -> None:
    vectors = cloud(200, 32)
    order = np.random.default_rng(3).permutation(200)
    assert project(vectors[order])[0] == pytest.approx(project(vectors)[0][order], abs=1e-6)


@pytest.mark.parametrize(
    "vectors",
    [np.empty((0, 0)), np.ones((1, 8)), np.ones((9, 8)), np.zeros((4, 3))],
    ids=["none", "one", "equal", "zero"],
)
def test_equal_vectors_are_placed_in_the_middle(vectors: NDArray[np.float64]) -> None:
    positions, explained, _ = project(vectors)
    assert positions.tolist() == [[0.0, 0.0]] * len(vectors)
    assert explained == (0.0, 0.0)


def test_two_rows_lie_on_one_axis() -> None:
    positions, explained, _ = project(np.eye(2, 5))
    assert np.abs(positions[:, 0]) == pytest.approx([1.0, 1.0])
    assert positions[:, 1] == pytest.approx([0.0, 0.0], abs=1e-9)
    assert explained == (1.0, 0.0)
    assert project(np.array([[1.0], [-1.0], [0.5]]))[0].shape == (3, 2)


def test_base64_with_line_breaks_is_read_as_big_endian_half_floats() -> None:
    text = base64.encodebytes(np.arange(96, dtype=">f2").tobytes()).decode()
    assert "\n" in text[:-1]
    assert decode_vectors(text, 2).tolist() == [list(range(48)), list(range(48, 96))]
    assert decode_vectors("", 0).shape[0] == 0
