"""Tests the provider base class: prefixes, batches, retries, checks and deadlines."""

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.deadline import Deadline
from shared.errors import (
    ConfigurationError,
    ProviderContractError,
    ProviderTimeout,
    ProviderUnavailable,
    ProviderWidthError,
)
from shared.models import EmbeddingModel, InputKind, Vectors
from shared.providers.base import WireAnswer
from shared.providers.batches import cut_batches, estimate_tokens
from shared.providers.reasons import plain_reason
from shared.retry import RetryPolicy
from tests.protocol_vectors import embed
from tests.unit.toy_provider import Short, Toy, expected, texts


def test_documents_and_queries_get_their_prefixes() -> None:
    toy = Toy()
    toy.embed_documents(["a"])
    toy.embed_query("b")
    assert toy.sent == [["d: a"], ["q: b"]]


def test_the_registered_prefixes_replace_the_declared_ones() -> None:
    toy = Toy()
    row = EmbeddingModel("toy", "toy", 16, document_prefix="passage: ", query_prefix="query: ")
    toy.embed(["a"], registered=row)
    toy.embed(["b"], "query", registered=row)
    assert toy.sent == [["passage: a"], ["query: b"]]


@pytest.mark.parametrize("row", [EmbeddingModel("toy", "toy", 8), EmbeddingModel("other", "toy", 16)])
def test_a_row_of_another_model_or_width_is_refused_by_name(row: EmbeddingModel) -> None:
    with pytest.raises(ConfigurationError, match=rf"{row.name} with {row.dimensions}.*toy with 16"):
        Toy().embed(["a"], registered=row)


def test_no_texts_make_no_call() -> None:
    toy = Toy()
    assert toy.embed([]).vectors.shape == (0, 16)
    assert toy.embed_documents([]).dtype == np.float32
    assert toy.sent == []


def test_texts_are_cut_into_as_few_requests_as_the_limit_allows() -> None:
    toy = Toy()
    result = toy.embed(texts(120))
    assert [len(inputs) for inputs in toy.sent] == [50, 50, 20]
    assert result.calls == 3
    assert result.tokens == sum(len(f"d: text {index}") for index in range(120))
    np.testing.assert_allclose(result.vectors, [expected(f"text {index}") for index in range(120)], atol=1e-6)


def test_requests_fit_the_token_limit_as_well() -> None:
    short = Short()
    short.embed(["x" * 60] * 20)
    assert max(sum(map(len, inputs)) for inputs in short.sent) <= 400
    assert len(short.sent) == 4


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 50), max_size=80),
    st.integers(1, 20),
    st.none() | st.integers(1, 100),
    st.none() | st.integers(1, 40),
)
def test_batches_hold_every_text_once_and_keep_the_limits(
    tokens: list[int], max_inputs: int, max_tokens: int | None, lone_over: int | None
) -> None:
    batches = cut_batches(tokens, max_inputs=max_inputs, max_tokens=max_tokens, lone_over=lone_over)
    assert sorted(index for batch in batches for index in batch) == list(range(len(tokens)))
    for batch in batches:
        assert 1 <= len(batch) <= max_inputs
        assert len(batch) == 1 or sum(tokens[index] for index in batch) <= (max_tokens or math.inf)
        assert len(batch) == 1 or all(tokens[index] <= (lone_over or math.inf) for index in batch)


@pytest.mark.parametrize("scale", [0.5, 3.0, 1.002])
def test_vectors_come_out_at_unit_length(scale: float) -> None:
    class Scaled(Toy):
        def vectors(self, inputs: Sequence[str]) -> Vectors:
            return (super().vectors(inputs) * scale).astype(np.float64)  # type: ignore[return-value]

    vectors = Scaled().embed_documents(["a", "b"])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_retryable_failure_is_retried_and_counted() -> None:
    toy = Toy()
    toy.failures = [ProviderUnavailable(), ProviderUnavailable()]
    assert toy.embed(["a"]).calls == 3


def test_another_width_is_refused_and_both_are_named() -> None:
    class Wide(Toy):
        def vectors(self, inputs: Sequence[str]) -> Vectors:
            return np.array([embed(text, 24) for text in inputs])

    with pytest.raises(ProviderWidthError, match=r"24 dimensions.*toy has 16"):
        Wide().embed(texts(3), isolate=True)


def test_a_missing_vector_is_refused_with_both_counts() -> None:
    class Fewer(Toy):
        def vectors(self, inputs: Sequence[str]) -> Vectors:
            return super().vectors(inputs)[:-1]

    with pytest.raises(ProviderContractError, match="2 vectors to 3 texts"):
        Fewer().embed(texts(3))


def test_many_threads_share_one_provider() -> None:
    toy = Toy()
    start = threading.Barrier(8)

    def work(worker: int) -> bool:
        start.wait()
        mine = [f"{worker} {index}" for index in range(70)]
        result = toy.embed([*mine, "BAD"], isolate=True)
        return set(result.errors) == {70} and np.allclose(result.vectors[5], expected(f"{worker} 5"), atol=1e-6)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_a_call_with_its_own_policy_shares_the_cooldown() -> None:
    toy = Toy()
    toy.failures = [ProviderUnavailable(retry_after=0.2)]
    with pytest.raises(ProviderUnavailable):
        toy.embed(["a"], retry=RetryPolicy(max_attempts=1))
    assert toy.retrier.cooldown > 0
    assert toy.retrier.policy.max_attempts == 3


class Slow(Toy):
    """Takes the whole time limit of each request and records it."""

    def _request(self, inputs: Sequence[str], timeout: float | None = None, kind: InputKind = "document") -> WireAnswer:
        self.sent.append(list(inputs))
        assert timeout is not None
        time.sleep(timeout)
        raise ProviderTimeout


def test_a_deadline_limits_a_request_with_its_retries_and_sets_retry_after() -> None:
    slow = Slow()
    begun = time.monotonic()
    with pytest.raises(ProviderUnavailable, match="did not answer within 0 s") as raised:
        slow.embed(["a"], deadline=Deadline(0.2))
    assert raised.value.retry_after
    assert 0.2 <= time.monotonic() - begun < 2
    assert len(slow.sent) == 1
    assert not slow.retrier.cooldown, "the provider did not ask for a pause"


def test_after_the_deadline_nothing_is_sent() -> None:
    toy = Toy()
    with pytest.raises(ProviderUnavailable):
        toy.embed(["a"], deadline=Deadline(0))
    assert toy.sent == []


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 2), ("a" * 300, 102), ("é" * 300, 302), ("琴" * 300, 452), ("a" * 300 + "琴" * 2, 105)]
)
def test_the_estimate_is_a_third_of_ascii_and_half_of_other_bytes(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


def test_a_reason_is_one_short_line_without_key_or_text() -> None:
    text = "a private row about a composer who wished to stay unnamed"
    upstream = f"bad\ninput: {text[3:50]} and token-123456 was used " + "x" * 500
    reason = plain_reason(upstream, inputs=[text], secrets=["token-123456"])
    assert reason.startswith("bad input: […] and […] was used")
    assert "\n" not in reason
    assert len(reason) <= 200
    assert plain_reason(None) == "no reason given"
