"""Providers whose server is a Python function; some of them fail."""

from collections.abc import Sequence

import numpy as np

from shared.errors import (
    ProviderError,
    ProviderInputRejected,
    ProviderInputTooLong,
)
from shared.models import EmbeddingModel, InputKind, Vectors
from shared.providers.base import EmbeddingProvider, WireAnswer
from shared.retry import Retrier, RetryPolicy
from tests.protocol_vectors import embed

MODEL = EmbeddingModel("toy", "toy", 16, document_prefix="d: ", query_prefix="q: ", max_tokens=100)


class Toy(EmbeddingProvider):
    """Refuses texts that contain BAD, and counts letters as tokens."""

    name = "toy"
    max_inputs = 50

    def __init__(self, spec: EmbeddingModel = MODEL) -> None:
        super().__init__(spec, retrier=Retrier(RetryPolicy(max_attempts=3, base_wait=0)))
        self.sent: list[list[str]] = []
        self.failures: list[ProviderError] = []
        self.always: ProviderError | None = None

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    def _request(self, inputs: Sequence[str], timeout: float | None = None, kind: InputKind = "document") -> WireAnswer:
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


class Short(Toy):
    """A model with a limit of 100 letters; its server refuses longer texts, with or without the limit in the error."""

    max_request_tokens = 400
    shortens_long_texts = True
    counts = True

    def _request(self, inputs: Sequence[str], timeout: float | None = None, kind: InputKind = "document") -> WireAnswer:
        longest = max(len(text) for text in inputs)
        if longest > 100:
            self.sent.append(list(inputs))
            raise ProviderInputTooLong(tokens=longest if self.counts else None, limit=100 if self.counts else None)
        return super()._request(inputs)


def texts(count: int, **special: str) -> list[str]:
    return [special.get(f"at{index}", f"text {index}") for index in range(count)]


def expected(text: str) -> Vectors:
    return embed(f"d: {text}", 16)
