"""A provider whose server is a Python function, under the real batching, retry and checks."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from shared.errors import ProviderError, ProviderInputRejected, ProviderTimeout
from shared.models import EmbeddingModel, InputKind
from shared.providers.base import EmbeddingProvider, WireAnswer
from shared.retry import Retrier, RetryPolicy
from tests.protocol_vectors import embed

DIMENSIONS = 16


@dataclass
class Wire:
    """The simulated server of one provider: what it received and how it behaves."""

    requests: list[list[str]] = field(default_factory=list)
    # Texts that contain one of these are refused, alone or with other texts.
    refuses: set[str] = field(default_factory=set)
    # Texts that contain one of these get a vector of NaN.
    makes_invalid: set[str] = field(default_factory=set)
    down: ProviderError | None = None
    delay: float = 0.0
    # Each request sets `arrived` and waits here.
    gate: threading.Event | None = None
    arrived: threading.Event = field(default_factory=threading.Event)

    @property
    def texts(self) -> list[str]:
        """Every text that was sent, in all requests."""
        return [text for request in list(self.requests) for text in request]


class FakeProvider(EmbeddingProvider):
    """Vectors are sums of hashed tokens, so that texts with common words have similar vectors."""

    name = "fake"
    max_inputs = 100

    def __init__(self, model: str = "fake", dimensions: int = DIMENSIONS, *, price: float = 0.0) -> None:
        retrier = Retrier(RetryPolicy(max_attempts=2, max_seconds=5, base_wait=0.01, max_wait=0.05))
        super().__init__(EmbeddingModel(model, self.name, dimensions), retrier=retrier, price=price)
        self.wire = Wire()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def _request(self, inputs: Sequence[str], timeout: float | None = None, kind: InputKind = "document") -> WireAnswer:
        wire = self.wire
        wire.requests.append(list(inputs))
        wire.arrived.set()
        if wire.gate is not None:
            opened = wire.gate.wait(30 if timeout is None else timeout)
            if not opened and timeout is not None:
                raise ProviderTimeout("the fake did not answer in time")
            assert opened, "the test never opened the gate"
        time.sleep(wire.delay)
        if wire.down is not None:
            raise wire.down
        if any(bad in text for bad in wire.refuses for text in inputs):
            raise ProviderInputRejected("the provider refused the text")
        rows = np.array([embed(text, self.dimensions) for text in inputs])
        for index, text in enumerate(inputs):
            if any(bad in text for bad in wire.makes_invalid):
                rows[index] = np.nan
        return WireAnswer(rows, tokens=sum(self.count_tokens(inputs)))
