"""Returns the provider of each collection's model, and reports which providers fail."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock
from typing import TYPE_CHECKING

from cachetools import TTLCache

from shared.embedding.collection import Collection
from shared.embedding.missing_rows import MissingRows
from shared.embedding.provider_check import ProviderCheck
from shared.errors import AppError, ConfigurationError, UnknownProvider
from shared.models import EmbeddingModel
from shared.retry import Retrier, RetryPolicy

if TYPE_CHECKING:
    from shared.providers.base import EmbeddingProvider
    from shared.providers.budget import DailyBudget

# If a provider could not be created, the next attempt comes after this many seconds, and not at each call.
RETRY_SECONDS = 2.0
# These retries are for a short outage of the database.
DATABASE_TRIES = RetryPolicy(max_attempts=5, max_seconds=10, base_wait=0.1, max_wait=2)


@dataclass(frozen=True, slots=True)
class Failure:
    """A provider that could not be created, or that failed in its latest call. `spec` is None for the configured one."""

    spec: EmbeddingModel | None
    error: AppError


class ModelProviders:
    """The configured provider, and a provider for each other model that a collection has.

    `configured` creates the provider of the settings, which is closed here if `closes_configured`. `make` creates the
    provider of another model. Each is called once for each model, and again after a failure. Without `make`, the
    configured provider is the only one. The providers count what they cost in the `budget`.
    """

    def __init__(
        self,
        configured: "Callable[[], EmbeddingProvider]",
        make: "Callable[[EmbeddingModel], EmbeddingProvider] | None" = None,
        *,
        closes_configured: bool = False,
        budget: "DailyBudget | None" = None,
    ) -> None:
        self._configured = configured
        self._make = make
        self._closes_configured = closes_configured
        self._budget = budget
        self._checks: dict[EmbeddingModel | None, ProviderCheck] = {}
        self._others: dict[str, EmbeddingProvider] = {}
        # The providers that are known to have the width of the registered model.
        self._fitting: dict[EmbeddingModel | None, EmbeddingProvider] = {}
        self._broken: TTLCache[str | None, ConfigurationError] = TTLCache(maxsize=256, ttl=RETRY_SECONDS)
        self._lock = Lock()

    def check(self, spec: EmbeddingModel | None = None) -> ProviderCheck:
        """The check of a model's provider. For None it is the check of the configured provider."""
        return self._checks.setdefault(spec, ProviderCheck(lambda: self.for_model(spec)))

    def failures(self) -> list[Failure]:
        """The providers that failed in their latest call or check. Only providers that are known to fail are checked again."""
        states = [(spec, check.known()) for spec, check in list(self._checks.items())]
        return [Failure(spec, state.error) for spec, state in states if state.error is not None]

    def for_model(self, spec: EmbeddingModel | None = None) -> "EmbeddingProvider":
        """The provider of a registered model; for None, the configured provider.

        Raises ConfigurationError, which names the fix, if the settings allow no provider for the model, or only one whose
        vectors have another width.
        """
        if (fitting := self._fitting.get(spec)) is not None:
            return fitting
        try:
            provider = self._find(spec)
        except UnknownProvider:
            # Another program makes these vectors, so this is not reported as a failure.
            raise
        except ConfigurationError as error:
            self.check(spec).fail(error)
            raise
        # A width that only the server knows is not compared yet, so the next call looks again.
        if spec is None or provider.declared.dimensions:
            self._fitting[spec] = provider
        return provider

    def for_collection(self, collection: Collection) -> "EmbeddingProvider":
        """The provider of the collection's model; the configured one if it has no model yet."""
        models = collection.collection_models()
        return self.for_model(models[0] if models else None)

    def for_backfill(self, collection: Collection, *, look: bool = True) -> "EmbeddingProvider | None":
        """Like `for_collection`, but None if another program writes the collection's vectors and no row is pending.

        With `look`, the rows are read too, and pending rows that the queue lacks are queued; otherwise only the queue is
        read.
        """
        try:
            return self.for_collection(collection)
        except UnknownProvider:
            if look:
                MissingRows(collection, Retrier(DATABASE_TRIES), Event()).queue_all()
            if collection.embedding_queue().pending:
                raise
            return None

    def close(self) -> None:
        """Close the providers that this object has created, and record what they have cost."""
        if self._budget is not None:
            self._budget.flush()
        with self._lock:
            for provider in self._others.values():
                provider.close()
            if self._closes_configured and None in self._fitting:
                self._fitting[None].close()

    def _find(self, spec: EmbeddingModel | None) -> "EmbeddingProvider":
        key = spec.name if spec else None
        with self._lock:
            if (known := self._broken.get(key)) is not None:
                raise type(known)(known.message)
            try:
                provider = self._others.get(key or "") or self._create(spec)
            except ConfigurationError as error:
                self._broken[key] = error
                raise
        width = provider.declared.dimensions
        if spec is not None and width and width != spec.dimensions:
            raise ConfigurationError(
                f"{spec.name} is registered with {spec.dimensions} dimensions, but its provider {provider.name} makes "
                f"{width}: check EMBEDDING_DIMENSIONS, or move the collection with backfill.py --switch-model"
            )
        return provider

    def _create(self, spec: EmbeddingModel | None) -> "EmbeddingProvider":
        """The configured provider, if it has this model, else another one, whose failures are reported for this model."""
        try:
            configured = self._fitting.get(None) or self._configured()
        except ConfigurationError:
            # The settings may still be complete for another model.
            if spec is None or self._make is None:
                raise
        else:
            self._adopt(configured, None)
            self._fitting[None] = configured
            if spec is None or spec.name == configured.model:
                return configured
            if self._make is None:
                raise ConfigurationError(
                    f"the collection is embedded with {spec.name}, the provider is set to {configured.model}: "
                    "check EMBEDDING_PROVIDER and EMBEDDING_MODEL"
                )
        provider = self._others[spec.name] = self._make(spec)
        self._adopt(provider, spec)
        return provider

    def _adopt(self, provider: "EmbeddingProvider", spec: EmbeddingModel | None) -> None:
        provider.on_failure = self.check(spec).fail
        # A provider that was passed in may have a budget of its own.
        if self._budget is not None:
            provider.budget = self._budget
