"""The base class of embedding providers. A subclass makes a single request; this class adds batches, retries and checks."""

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from shared.deadline import Deadline
from shared.errors import ConfigurationError, ProviderError, ProviderInputRejected
from shared.models import AS_KNOWN, EmbeddingModel, Embeddings, InputKind, InputRules, Spent, Vectors
from shared.providers.answers import WireAnswer
from shared.providers.batches import estimate_tokens
from shared.providers.isolate import PROBE, EmbeddingJob
from shared.retry import Retrier, RetryPolicy, StopSignal

if TYPE_CHECKING:
    from shared.providers.budget import DailyBudget

__all__ = ["EmbeddingProvider", "WireAnswer"]

# The request for an unknown width comes first. It has few retries, so that an unreachable provider is reported early.
WIDTH_RETRIES = RetryPolicy(max_attempts=3, max_seconds=10)


class EmbeddingProvider(ABC):
    """Turns texts into unit vectors. A subclass writes `_request` and declares its limits.

    One object serves any number of threads, which share its retrier and cooldown. `declared` has 0 dimensions if only
    the server knows them; the `rules` are applied to it. `model` is the name under which the vectors are stored.
    `price_per_million_tokens` is in USD; it is 0 if `price_is_known` is false. `on_failure` is called with every error
    that concerns all texts, such as an outage or a refused key. If there is a `budget`, it counts the calls that cost
    money and refuses those that would exceed it.
    """

    name: ClassVar[str]
    max_inputs: ClassVar[int]
    max_request_tokens: ClassVar[int | None] = None
    # True if the server refuses long texts: a text that may exceed `spec.max_tokens` is then sent alone and shortened
    # until it is accepted. False if `_request` cuts long texts and counts them.
    shortens_long_texts: ClassVar[bool] = False
    # Whether `_request_cut` can make the server cut a text that it refused as too long.
    server_cuts: ClassVar[bool] = False
    # Whether `count_tokens` returns what the provider will count, and not an estimate.
    counts_exactly: ClassVar[bool] = False
    price_is_known: bool = True
    # Whether the first numbers of a vector, scaled to unit length, are a valid vector of the model.
    shortens_vectors: bool = False

    def __init__(
        self,
        declared: EmbeddingModel,
        *,
        retrier: Retrier | None = None,
        price: float = 0.0,
        rules: InputRules = AS_KNOWN,
    ) -> None:
        declared = rules.apply(declared)
        self.model = declared.name
        self.price_per_million_tokens = price
        self.retrier = retrier or Retrier()
        self.on_failure: Callable[[ProviderError], None] = lambda _: None
        self.budget: DailyBudget | None = None
        self.declared = declared
        self._rules = rules
        # The cost of the request for the width. The next call reports it and sets this to no cost.
        self.unreported = Spent()
        self._width_lock = threading.Lock()

    def describe(self, deadline: Deadline | None = None) -> EmbeddingModel:
        """The model. If its width is unknown, one word is embedded within the deadline to find it, once.

        Raises what `embed` raises if the `budget` does not allow this word.
        """
        if self.declared.dimensions:
            return self.declared
        if not self._width_lock.acquire(timeout=-1 if deadline is None else deadline.left):
            assert deadline is not None
            raise deadline.error()
        try:
            if not self.declared.dimensions:
                # The budget counts it with the next call, which reports it.
                with self._within_budget([PROBE], "", Spent()):
                    answer = self.retrier.call(
                        lambda: self._request([PROBE], None if deadline is None else deadline.left),
                        policy=WIDTH_RETRIES,
                        deadline=deadline,
                    )
                self.unreported = Spent(self.billed_tokens([PROBE], answer.tokens), answer.calls)
                self.declared = replace(self.declared, dimensions=int(answer.vectors.shape[1]))
        except ProviderError as error:
            self._report(error)
            raise
        finally:
            self._width_lock.release()
        return self.declared

    @property
    def spec(self) -> EmbeddingModel:
        """The model, with its width."""
        return self.describe()

    @property
    def dimensions(self) -> int:
        """The width of every vector."""
        return self.describe().dimensions

    def close(self) -> None:  # noqa: B027 - most providers in process have nothing to close
        """Close the connections; the next call opens them again."""

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Embed texts for storage: n x dimensions float32, row i for text i."""
        return self.embed(texts).vectors

    def embed_query(self, text: str) -> Vectors:
        """Embed one search query: a vector of `dimensions` float32."""
        vector: Vectors = self.embed([text], "query").vectors[0]
        return vector

    def embed(
        self,
        texts: Sequence[str],
        kind: InputKind = "document",
        *,
        registered: EmbeddingModel | None = None,
        isolate: bool = False,
        truncate: bool = True,
        spent: Spent | None = None,
        retry: RetryPolicy | None = None,
        stop: StopSignal | None = None,
        deadline: Deadline | None = None,
    ) -> Embeddings:
        """Embed texts in as few requests as the limits allow.

        `registered` is the model's row in the database; its prefixes are used, unless the settings have a query prefix.
        With `isolate`, a refused text is reported in `errors` and raises nothing: a refused batch is halved until the text
        is alone. Errors that concern every text (unreachable, rate limit, quota, wrong key) are always raised. Without
        `truncate`, a text that is too long for the model is refused (ProviderInputTooLong). Each request is added to
        `spent` when it ends, so the sum is right even after an error. `retry` replaces the retrier's policy, `stop` ends
        its waits, and every request ends before the `deadline`. Raises ConfigurationError if `registered` has another name
        or width than the provider's model, BudgetSpent if the call would exceed the `budget`.
        """
        spec = self.describe(deadline)
        if registered is not None and (registered.name, registered.dimensions) != (spec.name, spec.dimensions):
            raise ConfigurationError(
                f"the database registers {registered.name} with {registered.dimensions} dimensions, "
                f"the provider {self.name} is set to {spec.name} with {spec.dimensions}: check EMBEDDING_MODEL"
            )
        known = registered or spec
        # Stored vectors depend on the registered document prefix. The query prefix may change at any time.
        query_prefix = known.query_prefix if self._rules.query_prefix is None else spec.query_prefix
        prefix = query_prefix if kind == "query" else known.document_prefix
        spent = Spent() if spent is None else spent
        policy = retry or self.retrier.policy
        job = EmbeddingJob(self, spec, kind, prefix, isolate, truncate, spent, policy, stop, deadline)
        try:
            with self._within_budget(texts, prefix, spent):
                return job.run(texts)
        except ProviderError as error:
            self._report(error)
            raise

    def _report(self, error: ProviderError) -> None:
        # The refusal of a text concerns no other text.
        if not isinstance(error, ProviderInputRejected):
            self.on_failure(error)

    @contextmanager
    def _within_budget(self, texts: Sequence[str], prefix: str, spent: Spent) -> Iterator[None]:
        """Reserve the estimated cost of the texts in the budget, and then count what was spent in its place."""
        budget, price = self.budget, self.price_per_million_tokens / 1e6
        if budget is None or (self.price_is_known and not price):
            yield
            return
        if not self.price_is_known:
            raise ConfigurationError(
                f"EMBEDDING_BUDGET_PER_DAY: the price of {self.model} is not known; set EMBEDDING_PRICE_PER_MILLION (0 if it "
                "is free), which is for the models of EMBEDDING_PROVIDER"
            )
        most = self.declared.max_tokens or math.inf
        tokens = sum(min(count, most) for count in self.count_tokens([prefix + text for text in texts]))
        before = spent.tokens
        with budget.spending(tokens * price, lambda: (spent.tokens - before) * price):
            yield

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text: exact if the provider has a tokenizer (`counts_exactly`), else an estimate."""
        return [estimate_tokens(text) for text in texts]

    def billed_tokens(self, inputs: Sequence[str], reported: int | None) -> int:
        """The number of tokens of a request: as the server `reported` it, or else as `count_tokens` returns it."""
        return sum(self.count_tokens(inputs)) if reported is None else reported

    @abstractmethod
    def _request(self, inputs: Sequence[str], timeout: float | None = None, kind: InputKind = "document") -> WireAnswer:
        """Make one request, which ends within `timeout` seconds. Vendor exceptions are translated to ProviderError."""

    def _request_cut(
        self, inputs: Sequence[str], timeout: float | None = None, kind: InputKind = "document"
    ) -> WireAnswer:
        """Make one request in which the server cuts texts that are too long."""
        raise NotImplementedError
