"""Tests that the base class finds the texts that a provider refuses, and embeds the others."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import (
    ProviderContractError,
    ProviderCrashed,
    ProviderError,
    ProviderInputRejected,
    ProviderQuotaExceeded,
    ProviderRejected,
    ProviderWidthError,
)
from shared.models import EmbeddingModel, InputKind, Vectors
from shared.providers.base import WireAnswer
from tests.unit.toy_provider import Toy, expected, texts

CALLS_FOR_ONE_OF_50 = 2 + 2 * math.log2(50)


class Crashing(Toy):
    """Answers HTTP 500 to every request with a text that contains CRASH."""

    def _request(self, inputs: Sequence[str], timeout: float | None = None, kind: InputKind = "document") -> WireAnswer:
        if any("CRASH" in text for text in inputs):
            self.sent.append(list(inputs))
            raise ProviderCrashed()
        return super()._request(inputs)


class Spoiling(Toy):
    """Returns an invalid vector for each text that contains SICK, while `sick` is set."""

    value = math.nan
    sick = 999

    def vectors(self, inputs: Sequence[str]) -> Vectors:
        rows = super().vectors(inputs)
        for row, text in enumerate(inputs):
            if "SICK" in text and self.sick:
                rows[row] = self.value
                self.sick -= 1
        return rows


@pytest.mark.parametrize("place", range(50))
def test_one_refused_text_of_fifty_is_found_within_the_promised_calls(place: int) -> None:
    toy = Toy()
    result = toy.embed(texts(50, **{f"at{place}": "BAD"}), isolate=True)
    assert list(result.errors) == [place]
    assert result.calls == len(toy.sent) <= CALLS_FOR_ONE_OF_50
    assert not result.vectors[place].any()
    assert np.linalg.norm(np.delete(result.vectors, place, 0), axis=1) == pytest.approx(1, abs=1e-5)


def test_the_second_half_is_not_sent_whole_if_the_first_half_succeeds() -> None:
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
def test_a_provider_that_refuses_every_text_stops_the_job_and_fails_no_row(error: ProviderError) -> None:
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


def test_a_server_that_dies_during_isolation_fails_no_row() -> None:
    class Dying(Crashing):
        def _request(
            self, inputs: Sequence[str], timeout: float | None = None, kind: InputKind = "document"
        ) -> WireAnswer:
            if len(self.sent) > 6:
                self.always = ProviderCrashed()
            return super()._request(inputs)

    with pytest.raises(ProviderCrashed):
        Dying().embed(texts(50, at7="CRASH"), isolate=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_an_invalid_vector_costs_one_more_call_and_fails_only_its_row(value: float) -> None:
    sick = Spoiling()
    sick.value = value
    result = sick.embed(texts(50, at9="SICK"), isolate=True)
    assert list(result.errors) == [9]
    assert isinstance(result.errors[9], ProviderContractError)
    assert result.calls == 2
    assert not result.vectors[9].any()


def test_a_vector_that_is_valid_at_the_second_try_is_kept() -> None:
    sick = Spoiling()
    sick.sick = 1
    result = sick.embed(texts(10, at3="SICK"), isolate=True)
    assert not result.errors
    np.testing.assert_allclose(result.vectors[3], expected("SICK"), atol=1e-6)


def test_without_isolation_an_invalid_vector_raises() -> None:
    with pytest.raises(ProviderContractError, match="1 of 10"):
        Spoiling().embed(texts(10, at3="SICK"))
