"""What every embedding provider is: one wire call, wrapped in batching, retry and checks."""

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar, Self

from shared.errors import ConfigurationError
from shared.models import EmbeddingModel, Embeddings, Vectors
from shared.providers.answers import WireAnswer
from shared.providers.batches import estimate_tokens
from shared.providers.job import PROBE, EmbeddingJob, Wire
from shared.retry import Retrier, RetryPolicy

__all__ = ["EmbeddingProvider", "InputType", "WireAnswer"]

# Two threads that ask a provider for its retrier at once must get one, or its cooldown is not shared.
_default_retrier_lock = threading.Lock()


class InputType(StrEnum):
    """Models are trained with different inputs for what is stored and what is asked."""

    DOCUMENT = "document"
    QUERY = "query"


class EmbeddingProvider(ABC):
    """Turns texts into unit vectors; a subclass writes `_request` and declares its limits.

    One object serves any number of threads; they share its retrier and so its cooldown.
    `price_per_million_tokens` is in USD.
    """

    name: ClassVar[str]
    max_inputs: ClassVar[int]
    max_request_tokens: ClassVar[int | None] = None
    # A server that refuses long texts: one that may be over `spec.max_tokens` travels alone, and is
    # shortened until it is accepted. False where the wire call cuts and counts by itself.
    shortens_long_texts: ClassVar[bool] = False
    # The server can be told, by `_request_cut`, to read the beginning of a text it refused as too long.
    server_cuts: ClassVar[bool] = False

    # `count_tokens` is what the provider will count, not an estimate.
    counts_exactly: ClassVar[bool] = False

    price_per_million_tokens: float = 0.0

    _retrier: Retrier | None = None
    _registered: EmbeddingModel | None = None

    @property
    @abstractmethod
    def spec(self) -> EmbeddingModel:
        """The model as this provider declares it."""

    @property
    def model(self) -> str:
        """The name under which vectors of this provider are stored."""
        return self.spec.name

    @property
    def dimensions(self) -> int:
        """The width of every vector."""
        return self.spec.dimensions

    @property
    def retrier(self) -> Retrier:
        """The retry loop around every request; the default one where none was given."""
        with _default_retrier_lock:
            if self._retrier is None:
                self._retrier = Retrier()
            return self._retrier

    def with_retrier(self, retrier: Retrier) -> Self:
        """This provider, connections shared, under another retry policy or stop signal."""
        twin = copy.copy(self)
        twin._retrier = retrier
        return twin

    def with_spec(self, registered: EmbeddingModel) -> Self:
        """This provider, connections shared, with the prefixes of the model's row in the database.

        Raises ConfigurationError where the row describes another model or width.
        """
        if (registered.name, registered.dimensions) != (self.model, self.dimensions):
            raise ConfigurationError(
                f"the database registers {registered.name} with {registered.dimensions} dimensions, "
                f"the provider {self.name} is set to {self.model} with {self.dimensions}: check EMBEDDING_MODEL"
            )
        twin = copy.copy(self)
        twin._registered = registered
        return twin

    def close(self) -> None:  # noqa: B027 - most providers in process have nothing to close
        """Close the connections, also those of its twins; the next call opens them again."""

    def prefix(self, input_type: InputType) -> str:
        """What is put before a text of this type; the database's row decides, once it is known."""
        known = self._registered or self.spec
        return known.query_prefix if input_type is InputType.QUERY else known.document_prefix

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Embed texts that are to be stored: n x dimensions float32, row i for text i."""
        return self.embed(texts, InputType.DOCUMENT).vectors

    def embed_query(self, text: str) -> Vectors:
        """Embed one search query: a vector of `dimensions` float32."""
        vector: Vectors = self.embed([text], InputType.QUERY).vectors[0]
        return vector

    def embed(
        self, texts: Sequence[str], input_type: InputType = InputType.DOCUMENT, *, isolate: bool = False
    ) -> Embeddings:
        """Embed texts in as few requests as the limits allow.

        With `isolate`, a text that the provider refuses is reported in `errors` instead of raising:
        a refused batch is halved until the text stands alone. Errors that concern every text
        (unreachable, rate limited for good, quota, wrong key) raise in either case.
        """
        spec = self.spec
        wire = Wire(
            request=self._request,
            request_cut=self._request_cut if self.server_cuts else None,
            retrier=self.retrier,
            count_tokens=self.count_tokens,
            model=spec.name,
            dimensions=spec.dimensions,
            max_inputs=self.max_inputs,
            max_request_tokens=self.max_request_tokens,
            shorten_over=spec.max_tokens if self.shortens_long_texts else None,
        )
        return EmbeddingJob(wire, texts, self.prefix(input_type), isolate=isolate).run()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, exact where a tokenizer is at hand, else an estimate (stated by the subclass)."""
        return [estimate_tokens(text) for text in texts]

    def probe_width(self) -> int:
        """The width of the provider's vectors, by embedding one word."""
        # Asked before anything else is done: whoever waits for it wants to know soon that nobody is there.
        hasty = self.retrier.replace(policy=RetryPolicy(max_attempts=3, max_seconds=10))
        return int(hasty.call(lambda: self._request([PROBE])).vectors.shape[1])

    @abstractmethod
    def _request(self, inputs: Sequence[str]) -> WireAnswer:
        """Make one request; translate every vendor exception into the ProviderError tree."""

    def _request_cut(self, inputs: Sequence[str]) -> WireAnswer:
        """Make one request in which the server cuts what is too long."""
        raise NotImplementedError
