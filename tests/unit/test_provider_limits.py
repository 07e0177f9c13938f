"""Tests that the base class cuts long texts and never sends values that are no text."""

from collections.abc import Sequence

import numpy as np
import pytest

from shared.errors import (
    ProviderInputRejected,
    ProviderInputTooLong,
)
from shared.models import EmbeddingModel, InputKind
from shared.providers.base import WireAnswer
from tests.unit.toy_provider import Short, Toy


class Cutting(Short):
    """A server that can truncate texts on request."""

    server_cuts = True
    broken = False

    def _request_cut(
        self, inputs: Sequence[str], timeout: float | None = None, kind: InputKind = "document"
    ) -> WireAnswer:
        return self._request(inputs) if self.broken else self._request([text[:100] for text in inputs])


@pytest.mark.parametrize("value", ["half \ud83d a pair", "", None, 7, b"bytes"])
def test_a_value_that_is_no_text_is_refused_alone_and_never_sent(value: object) -> None:
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
    # The other texts were sent once, because long texts are sent alone.
    assert sum("d: fits" in inputs for inputs in short.sent) == 1


def test_a_long_text_is_cut_by_the_servers_token_count() -> None:
    short = Short()
    short.embed(["y" * 130])
    assert 90 <= len(short.sent[-1][0]) <= 100
    assert len(short.sent) == 2


def test_texts_are_cut_for_a_server_that_does_not_truncate() -> None:
    cutting = Cutting()
    cutting.broken = True
    result = cutting.embed(["y" * 130])
    assert result.truncated == 1
    assert 90 <= len(cutting.sent[-1][0]) <= 100


def test_a_text_that_never_fits_is_reported() -> None:
    short = Short()
    short.counts = False
    short.always = None
    short.declared = EmbeddingModel("toy", "toy", 16, document_prefix="p" * 200, max_tokens=100)
    result = short.embed(["a", "b"], isolate=True)
    assert set(result.errors) == {0, 1}
    assert all(isinstance(error, ProviderInputTooLong) for error in result.errors.values())
    assert result.truncated == 0
