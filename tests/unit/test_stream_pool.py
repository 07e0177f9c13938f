"""Tests the queue of the in-process engine with a forward pass that tests can block."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from shared.errors import ProviderError
from shared.models import Vectors
from shared.providers.onnx.stream_pool import BATCH_TOKENS, LENGTH_STEP, WINDOW, StreamPool, Tokens

PATIENCE = 10.0


def sequences(*lengths: int) -> list[Tokens]:
    return [np.full(length, length, dtype=np.int64) for length in lengths]


class Forward:
    """Answers the sum of each sequence; records the shapes; waits for `gate` if it is closed."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []
        self.tokens: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.error: Exception | None = None
        self.seconds = 0.0

    def __call__(self, ids: Tokens, mask: Tokens) -> Vectors:
        self.shapes.append((ids.shape[0], ids.shape[1]))
        self.tokens.append(int(mask.sum()))
        self.entered.release()
        assert self.gate.wait(PATIENCE)
        time.sleep(self.seconds)
        if self.error:
            raise self.error
        return (ids * mask).sum(axis=1, keepdims=True).astype(np.float32)


@pytest.fixture
def forward() -> Forward:
    return Forward()


def sums(rows: list[Vectors]) -> list[float]:
    return [float(row[0]) for row in rows]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_rows_come_back_in_the_order_of_the_sequences(forward: Forward) -> None:
    lengths = np.random.default_rng(0).integers(1, 250, 700).tolist()
    pool = StreamPool(forward, 2)
    rows = pool.compute([sequences(*lengths[:300]), sequences(*lengths[300:])])
    pool.close()
    assert sums(rows) == [length * length for length in lengths]


def test_batches_hold_sequences_of_like_length_within_the_budget(forward: Forward) -> None:
    lengths = np.random.default_rng(0).integers(1, 250, 700).tolist()
    pool = StreamPool(forward, 1)
    pool.compute([sequences(*lengths)])
    pool.close()
    assert all(count * width <= BATCH_TOKENS for count, width in forward.shapes)
    padded = sum(count * width for count, width in forward.shapes)
    assert sum(lengths) / padded > 0.93
    assert padded / len(forward.shapes) > 0.7 * BATCH_TOKENS


@pytest.mark.parametrize("width", [32, 64, 96, 128])
def test_no_sequence_is_padded_by_more_than_a_quarter_of_its_batch(forward: Forward, width: int) -> None:
    near, far = width * 3 // 4, width * 3 // 4 - LENGTH_STEP
    forward.gate.clear()
    pool = StreamPool(forward, 1)
    with ThreadPoolExecutor(2) as callers:
        holding = callers.submit(pool.compute, [sequences(8)])
        assert forward.entered.acquire(timeout=PATIENCE)
        # All three fit into the budget of one batch.
        call = callers.submit(pool.compute, [sequences(width, near, far)])
        eventually(lambda: len(pool._calls) == 2)
        forward.gate.set()
        holding.result()
        call.result()
    pool.close()
    assert forward.shapes[1:] == [(2, width), (1, far)]


def test_a_sequence_longer_than_the_budget_is_computed_alone(forward: Forward) -> None:
    pool = StreamPool(forward, 1)
    pool.compute([sequences(BATCH_TOKENS * 2, 5)])
    pool.close()
    assert (1, BATCH_TOKENS * 2) in forward.shapes


def test_no_sequences_give_an_empty_answer(forward: Forward) -> None:
    pool = StreamPool(forward, 1)
    assert pool.compute([]) == []
    assert pool.compute([[]]) == []
    pool.close()


def test_small_calls_that_wait_together_share_batches(forward: Forward) -> None:
    forward.gate.clear()
    pool = StreamPool(forward, 1)
    with ThreadPoolExecutor(9) as callers:
        holding = callers.submit(pool.compute, [sequences(250)])
        assert forward.entered.acquire(timeout=PATIENCE)
        waiting = [callers.submit(pool.compute, [sequences(8)]) for _ in range(8)]
        eventually(lambda: len(pool._calls) == 9)
        forward.gate.set()
        assert sums(holding.result()) == [250 * 250]
        assert [sums(call.result()) for call in waiting] == [[64.0]] * 8
    pool.close()
    assert forward.shapes[1:] == [(8, 8)]


def test_a_query_is_computed_before_the_rest_of_a_running_bulk_load(forward: Forward) -> None:
    forward.gate.clear()
    pool = StreamPool(forward, 1)
    with ThreadPoolExecutor(2) as callers:
        bulk = callers.submit(pool.compute, [sequences(*[100] * 100)])
        assert forward.entered.acquire(timeout=PATIENCE)
        query = callers.submit(pool.compute, [sequences(7)])
        eventually(lambda: len(pool._calls) == 2)
        forward.gate.set()
        query.result()
        bulk.result()
    pool.close()
    assert (1, LENGTH_STEP) in forward.shapes[1:3]


def test_a_stream_of_queries_does_not_starve_a_bulk_load(forward: Forward) -> None:
    # Slow enough that a query is always waiting when a batch is taken.
    forward.seconds = 0.005
    pool = StreamPool(forward, 1)
    stop = threading.Event()

    def query_for_ever() -> None:
        while not stop.is_set():
            pool.compute([sequences(*[3] * 40)])

    with ThreadPoolExecutor(9) as callers:
        for _ in range(8):
            callers.submit(query_for_ever)
        bulk = callers.submit(pool.compute, [sequences(*[200] * 100)])
        try:
            bulk.result(timeout=PATIENCE)
        finally:
            stop.set()
    pool.close()


def test_the_queue_is_bounded_for_one_large_caller(forward: Forward) -> None:
    forward.gate.clear()
    pool = StreamPool(forward, 1)
    prepared = 0

    def parts() -> object:
        nonlocal prepared
        for _ in range(10):
            prepared += WINDOW // 2
            yield sequences(*[8] * (WINDOW // 2))

    with ThreadPoolExecutor(1) as callers:
        call = callers.submit(pool.compute, parts())  # type: ignore[arg-type]
        eventually(lambda: prepared == 3 * WINDOW // 2)
        time.sleep(0.05)
        assert prepared == 3 * WINDOW // 2
        assert pool._waiting_tokens <= WINDOW * 8
        forward.gate.set()
        assert len(call.result()) == 5 * WINDOW
    pool.close()


def test_an_error_reaches_the_callers_of_that_batch_and_the_pool_lives_on(forward: Forward) -> None:
    pool = StreamPool(forward, 2)
    forward.error = ProviderError("out of memory")
    with pytest.raises(ProviderError, match="out of memory"):
        pool.compute([sequences(*range(1, 200))])
    forward.error = None
    assert sums(pool.compute([sequences(3)])) == [9.0]
    assert pool._waiting_tokens == 0
    pool.close()


def test_a_tokenizer_error_leaves_no_sequences_in_the_queue(forward: Forward) -> None:
    forward.gate.clear()
    pool = StreamPool(forward, 1)

    def parts() -> object:
        yield sequences(*[50] * 100)
        raise ProviderError("no tokens")

    with pytest.raises(ProviderError, match="no tokens"):
        pool.compute(parts())  # type: ignore[arg-type]
    assert pool._waiting_tokens == 0
    assert pool._calls == []
    forward.gate.set()
    pool.close()


def test_closing_fails_waiting_calls_and_ends_the_threads(forward: Forward) -> None:
    forward.gate.clear()
    pool = StreamPool(forward, 2)
    with ThreadPoolExecutor(2) as callers:
        call = callers.submit(pool.compute, [sequences(*[100] * 100)])
        assert forward.entered.acquire(timeout=PATIENCE)
        closing = callers.submit(pool.close)
        with pytest.raises(ProviderError, match="closed"):
            call.result(timeout=PATIENCE)
        forward.gate.set()
        closing.result(timeout=PATIENCE)
    assert not any(thread.is_alive() for thread in pool._threads)
    with pytest.raises(ProviderError, match="closed"):
        pool.compute([sequences(3)])


def test_a_forked_child_does_not_wait_for_a_lock_that_its_parent_held(
    forward: Forward, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = StreamPool(forward, 1)
    with monkeypatch.context() as child, pool._lock:
        child.setattr("shared.providers.onnx.stream_pool.os.getpid", lambda: -1)
        closing = threading.Thread(target=pool.close, daemon=True)
        closing.start()
        closing.join(PATIENCE)
        assert not closing.is_alive()
    assert sums(pool.compute([sequences(3)])) == [9.0]
    pool.close()
