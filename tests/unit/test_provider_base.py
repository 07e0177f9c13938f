"""What the base class does around a wire call, on a provider whose wire is a function."""

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import (
    ConfigurationError,
    ProviderContractError,
    ProviderCrashed,
    ProviderError,
    ProviderInputRejected,
    ProviderInputTooLong,
    ProviderQuotaExceeded,
    ProviderRejected,
    ProviderUnavailable,
    ProviderWidthError,
)
from shared.models import EmbeddingModel, Vectors
from shared.providers.base import EmbeddingProvider, InputType, WireAnswer
from shared.providers.batches import cut_batches, estimate_tokens
from shared.providers.reasons import plain_reason
from shared.retry import Retrier, RetryPolicy
from tests.protocol_vectors import embed

MODEL = EmbeddingModel("toy", "toy", 16, document_prefix="d: ", query_prefix="q: ", max_tokens=100)
CALLS_FOR_ONE_OF_50 = 2 + 2 * math.log2(50)


class Toy(EmbeddingProvider):
    """Refuses texts that say BAD; counts letters as tokens."""

    name = "toy"
    max_inputs = 50

    def __init__(self, spec: EmbeddingModel = MODEL) -> None:
        self._spec = spec
        self._retrier = Retrier(RetryPolicy(max_attempts=3), sleep=lambda _: None)
        self.sent: list[list[str]] = []
        self.failures: list[ProviderError] = []
        self.always: ProviderError | None = None

    @property
    def spec(self) -> EmbeddingModel:
        return self._spec

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    def _request(self, inputs: Sequence[str]) -> WireAnswer:
        self.sent.append(list(inputs))
        if self.always:
            raise self.always
        if self.failures:
            raise self.failures.pop(0)
        if any("BAD" in text for text in inputs):
            raise ProviderInputRejected("refused")
        return WireAnswer(self.vectors(inputs))

    def vectors(self, inputs: Sequence[str]) -> Vectors:
        return np.array([embed(text, 16) for text in inputs])


class Crashing(Toy):
    """Answers HTTP 500 to every request that holds a text saying CRASH."""

    def _request(self, inputs: Sequence[str]) -> WireAnswer:
        if any("CRASH" in text for text in inputs):
            self.sent.append(list(inputs))
            raise ProviderCrashed()
        return super()._request(inputs)


class Spoiling(Toy):
    """Returns a useless row for each text that says SICK, for as long as `sick` lasts."""

    value = math.nan
    sick = 999

    def vectors(self, inputs: Sequence[str]) -> Vectors:
        rows = super().vectors(inputs)
        for row, text in enumerate(inputs):
            if "SICK" in text and self.sick:
                rows[row] = self.value
                self.sick -= 1
        return rows


class Short(Toy):
    """A model that reads 100 letters; its server refuses more, and says so or not."""

    max_request_tokens = 400
    shortens_long_texts = True
    counts = True

    def _request(self, inputs: Sequence[str]) -> WireAnswer:
        longest = max(len(text) for text in inputs)
        if longest > 100:
            self.sent.append(list(inputs))
            raise ProviderInputTooLong(tokens=longest if self.counts else None, limit=100 if self.counts else None)
        return super()._request(inputs)


class Cutting(Short):
    """A server that can be told to cut."""

    server_cuts = True
    broken = False

    def _request_cut(self, inputs: Sequence[str]) -> WireAnswer:
        return self._request(inputs) if self.broken else self._request([text[:100] for text in inputs])


def texts(count: int, **special: str) -> list[str]:
    return [special.get(f"at{index}", f"text {index}") for index in range(count)]


def expected(text: str) -> Vectors:
    return embed(f"d: {text}", 16)


def test_documents_and_queries_get_their_prefixes() -> None:
    toy = Toy()
    toy.embed_documents(["a"])
    toy.embed_query("b")
    assert toy.sent == [["d: a"], ["q: b"]]


def test_the_row_in_the_database_decides_the_prefixes() -> None:
    toy = Toy().with_spec(EmbeddingModel("toy", "toy", 16, document_prefix="passage: ", query_prefix="query: "))
    toy.embed_documents(["a"])
    toy.embed_query("b")
    assert toy.sent == [["passage: a"], ["query: b"]]


@pytest.mark.parametrize("row", [EmbeddingModel("toy", "toy", 8), EmbeddingModel("other", "toy", 16)])
def test_a_row_of_another_model_or_width_is_refused_by_name(row: EmbeddingModel) -> None:
    with pytest.raises(ConfigurationError, match=rf"{row.name} with {row.dimensions}.*toy with 16"):
        Toy().with_spec(row)


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


@pytest.mark.parametrize("place", range(50))
def test_one_refused_text_of_fifty_is_found_within_the_promised_calls(place: int) -> None:
    toy = Toy()
    result = toy.embed(texts(50, **{f"at{place}": "BAD"}), isolate=True)
    assert list(result.errors) == [place]
    assert result.calls == len(toy.sent) <= CALLS_FOR_ONE_OF_50
    assert not result.vectors[place].any()
    assert np.linalg.norm(np.delete(result.vectors, place, 0), axis=1) == pytest.approx(1, abs=1e-5)


def test_what_the_first_half_acquits_the_second_is_not_asked_whole() -> None:
    assert Toy().embed(texts(50, at49="BAD"), isolate=True).calls == 7


@settings(deadline=None)
@given(st.integers(1, 60), st.data())
def test_exactly_the_refused_texts_are_reported(count: int, data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(0, count - 1)))
    result = Toy().embed(["BAD" if index in bad else f"text {index}" for index in range(count)], isolate=True)
    assert set(result.errors) == bad
    for index in set(range(count)) - bad:
        np.testing.assert_allclose(result.vectors[index], expected(f"text {index}"), atol=1e-6)


def test_without_isolation_a_refused_text_raises_after_one_call() -> None:
    toy = Toy()
    with pytest.raises(ProviderInputRejected):
        toy.embed(texts(50, at7="BAD"))
    assert len(toy.sent) == 1


@pytest.mark.parametrize("error", [ProviderRejected(), ProviderQuotaExceeded(), ProviderWidthError()])
def test_a_refusal_that_concerns_every_text_is_not_halved(error: ProviderError) -> None:
    toy = Toy()
    toy.always = error
    with pytest.raises(type(error)):
        toy.embed(texts(50), isolate=True)
    assert len(toy.sent) == 1


@pytest.mark.parametrize("error", [ProviderInputRejected("no such parameter"), ProviderContractError("short list")])
def test_a_provider_that_refuses_every_text_stops_the_job_instead_of_parking_the_rows(error: ProviderError) -> None:
    toy = Toy()
    toy.always = error
    with pytest.raises((ProviderRejected, ProviderContractError), match=error.message) as raised:
        toy.embed(texts(50), isolate=True)
    assert not isinstance(raised.value, ProviderInputRejected)
    assert len(toy.sent) <= 12


def test_a_lone_refused_text_is_reported_once_another_is_accepted() -> None:
    toy = Toy()
    assert list(toy.embed(["BAD"], isolate=True).errors) == [0]
    assert len(toy.sent) == 2


def test_a_text_on_which_the_server_crashes_every_time_is_found() -> None:
    crashing = Crashing()
    result = crashing.embed(texts(50, at7="CRASH"), isolate=True)
    assert list(result.errors) == [7]
    assert isinstance(result.errors[7], ProviderInputRejected)
    assert np.count_nonzero(result.vectors.any(axis=1)) == 49
    assert result.calls == len(crashing.sent) <= 30


@pytest.mark.parametrize("isolate", [True, False])
def test_a_server_that_crashes_on_everything_stops_the_job(isolate: bool) -> None:
    crashing = Crashing(EmbeddingModel("toy", "toy", 16))
    crashing.always = ProviderCrashed()
    with pytest.raises(ProviderCrashed):
        crashing.embed(texts(50), isolate=isolate)
    assert len(crashing.sent) <= 5


def test_a_server_that_dies_while_a_text_is_looked_for_parks_no_row() -> None:
    class Dying(Crashing):
        def _request(self, inputs: Sequence[str]) -> WireAnswer:
            if len(self.sent) > 6:
                self.always = ProviderCrashed()
            return super()._request(inputs)

    with pytest.raises(ProviderCrashed):
        Dying().embed(texts(50, at7="CRASH"), isolate=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_a_useless_row_costs_one_call_more_and_no_good_row(value: float) -> None:
    sick = Spoiling()
    sick.value = value
    result = sick.embed(texts(50, at9="SICK"), isolate=True)
    assert list(result.errors) == [9]
    assert isinstance(result.errors[9], ProviderContractError)
    assert result.calls == 2
    assert not result.vectors[9].any()


def test_a_row_that_is_good_when_asked_again_is_kept() -> None:
    sick = Spoiling()
    sick.sick = 1
    result = sick.embed(texts(10, at3="SICK"), isolate=True)
    assert not result.errors
    np.testing.assert_allclose(result.vectors[3], expected("SICK"), atol=1e-6)


def test_without_isolation_a_useless_row_raises() -> None:
    with pytest.raises(ProviderContractError, match="1 of 10"):
        Spoiling().embed(texts(10, at3="SICK"))


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


@pytest.mark.parametrize("value", ["half \ud83d a pair", "", None, 7, b"bytes"])
def test_what_is_no_text_is_refused_alone_and_never_sent(value: object) -> None:
    toy = Toy()
    result = toy.embed(["a", value, "b"], isolate=True)  # type: ignore[list-item]
    assert list(result.errors) == [1]
    assert toy.sent == [["d: a", "d: b"]]
    with pytest.raises(ProviderInputRejected):
        toy.embed(["a", value])  # type: ignore[list-item]


@pytest.mark.parametrize("provider", [Short, Cutting])
@pytest.mark.parametrize("counts", [True, False])
def test_a_text_over_the_limit_is_cut_until_it_fits_and_counted(provider: type[Short], counts: bool) -> None:
    short = provider()
    short.counts = counts
    result = short.embed(["fits", "y" * 130, "also fits", "z" * 9000])
    assert result.truncated == 2
    assert result.calls == len(short.sent)
    assert np.linalg.norm(result.vectors, axis=1) == pytest.approx(1, abs=1e-5)
    # The others were not asked for twice: long texts travel alone.
    assert sum("d: fits" in inputs for inputs in short.sent) == 1


def test_as_much_of_a_long_text_is_kept_as_the_server_counts() -> None:
    short = Short()
    short.embed(["y" * 130])
    assert 90 <= len(short.sent[-1][0]) <= 100
    assert len(short.sent) == 2


def test_a_server_that_refuses_to_cut_is_sent_less() -> None:
    cutting = Cutting()
    cutting.broken = True
    result = cutting.embed(["y" * 130])
    assert result.truncated == 1
    assert 90 <= len(cutting.sent[-1][0]) <= 100


def test_a_text_that_never_fits_is_reported() -> None:
    short = Short()
    short.counts = False
    short.always = None
    short._spec = EmbeddingModel("toy", "toy", 16, document_prefix="p" * 200, max_tokens=100)
    result = short.embed(["a", "b"], isolate=True)
    assert set(result.errors) == {0, 1}
    assert all(isinstance(error, ProviderInputTooLong) for error in result.errors.values())
    assert result.truncated == 0


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


def test_a_provider_without_a_retrier_makes_one_for_all_threads() -> None:
    toy = Toy()
    toy._retrier = None
    with ThreadPoolExecutor(8) as pool:
        assert len({id(one) for one in pool.map(lambda _: toy.retrier, range(64))}) == 1


def test_a_twin_under_another_retrier_leaves_the_first_alone() -> None:
    toy = Toy()
    retrier = Retrier()
    assert toy.with_retrier(retrier).retrier is retrier
    assert toy.retrier is not retrier
    assert toy.prefix(InputType.QUERY) == "q: "


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 2), ("a" * 300, 102), ("é" * 300, 302), ("琴" * 300, 452), ("a" * 300 + "琴" * 2, 105)]
)
def test_the_estimate_is_a_third_of_ascii_and_half_of_other_bytes(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


def test_a_reason_is_one_short_line_without_key_or_text() -> None:
    text = "a private row about a composer who wished to stay unnamed"
    told = f"bad\ninput: {text[3:50]} and token-123456 was used " + "x" * 500
    reason = plain_reason(told, inputs=[text], secrets=["token-123456"])
    assert reason.startswith("bad input: […] and […] was used")
    assert "\n" not in reason
    assert len(reason) <= 200
    assert plain_reason(None) == "no reason given"
