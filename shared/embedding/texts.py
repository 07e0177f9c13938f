"""Embeds the texts of interactive requests, limits their number and time, and writes an event for each request."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from shared.deadline import Deadline
from shared.embedding.microbatch import MicroBatcher
from shared.errors import AppError, Overloaded, ProviderInputRejected, ProviderInputTooLong
from shared.events import emit
from shared.models import EmbeddingModel, Embeddings, InputKind, Spent
from shared.retry import REQUEST_RETRIES

if TYPE_CHECKING:
    from shared.providers.base import EmbeddingProvider

# How many texts may wait or be embedded at the same time; further requests get a 503 with Retry-After.
MAX_TEXTS_WAITING = 8192

# A function that gets the number of texts in a request, their tokens and the seconds it took.
Observe = Callable[[int, int, float], None]


class EmbeddingService:
    """Embeds with one provider, from any number of threads, and fails fast when the provider is down.

    `workers` is the number of concurrent requests to the provider. With `joins`, single texts that wait for a worker are
    sent as one request. They use the same workers as requests with many texts, or `joining_workers` of their own.
    """

    def __init__(
        self,
        provider: "Callable[[], EmbeddingProvider]",
        *,
        joins: bool,
        workers: int = 4,
        joining_workers: int | None = None,
        observe: Observe | None = None,
    ) -> None:
        self._provider = provider
        self._joins = joins
        self._observe = observe or (lambda *_: None)
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="embed")
        kinds: tuple[InputKind, ...] = ("document", "query")
        own = joining_workers and ThreadPoolExecutor(joining_workers, thread_name_prefix="embed-joined")
        self._joining = own or self._threads
        self._batchers = {kind: MicroBatcher(partial(self._embed, kind), self._joining) for kind in kinds}
        self._texts = 0
        self._spec: EmbeddingModel | None = None

    @property
    def provider(self) -> "EmbeddingProvider":
        """The provider, created if necessary."""
        return self._provider()

    @property
    def known_spec(self) -> EmbeddingModel | None:
        """The provider's model; None until `spec` has read it."""
        return self._spec

    def spec(self, deadline: Deadline | None) -> EmbeddingModel:
        """The provider's model. If the width is not known, the provider is asked for it within the deadline."""
        if self._spec is None:
            self._spec = self._provider().describe(deadline)
        return self._spec

    @property
    def waiting(self) -> int:
        """Texts that were accepted and are not yet embedded."""
        return self._texts

    def submit(
        self,
        texts: Sequence[str],
        kind: InputKind,
        batch_id: str,
        deadline: Deadline | None = None,
        *,
        truncate: bool = True,
    ) -> "Future[Embeddings]":
        """Embed one request's texts; row i of the vectors belongs to text i.

        Every request to the provider ends before the `deadline`. The future raises ProviderError. If one text is refused,
        the whole request fails, and the error gives the position of the text. Without `truncate`, a text that is too long
        for the model is refused. Raises Overloaded if too many texts are waiting.
        """
        with self._lock:
            if self._texts + len(texts) > MAX_TEXTS_WAITING and self._texts:
                raise Overloaded(f"{self._texts} texts are waiting to be embedded; try again in a second")
            self._texts += len(texts)
        started = time.perf_counter()
        try:
            if self._joins and truncate and len(texts) == 1:
                answer = self._batchers[kind].submit(texts[0], deadline)
            else:
                answer = self._threads.submit(self._embed_all, kind, texts, deadline, truncate)
        except BaseException:
            with self._lock:
                self._texts -= len(texts)
            raise
        emit("embedding.batch_started.v1", batch_id=batch_id, chunk_count=len(texts))
        answer.add_done_callback(partial(self._finish, len(texts), batch_id, started))
        return answer

    def close(self) -> None:
        """Finish the open requests."""
        self._threads.shutdown(wait=True)
        self._joining.shutdown(wait=True)

    def _embed(
        self, kind: InputKind, texts: Sequence[str], deadline: Deadline | None, truncate: bool = True
    ) -> Embeddings:
        started, spent = time.perf_counter(), Spent()
        try:
            return self._provider().embed(
                texts, kind, isolate=True, truncate=truncate, spent=spent, retry=REQUEST_RETRIES, deadline=deadline
            )
        except AppError:
            if spent.tokens:
                self._observe(len(texts), spent.tokens, time.perf_counter() - started)
            raise

    def _embed_all(
        self, kind: InputKind, texts: Sequence[str], deadline: Deadline | None, truncate: bool
    ) -> Embeddings:
        started = time.perf_counter()
        answer = self._embed(kind, texts, deadline, truncate)
        for index, error in answer.errors.items():
            self._observe(len(texts), answer.tokens, time.perf_counter() - started)
            refusal = ProviderInputTooLong if isinstance(error, ProviderInputTooLong) else ProviderInputRejected
            raise refusal(f"text {index + 1} of {len(texts)}: {error.message}")
        return answer

    def _finish(self, count: int, batch_id: str, started: float, done: "Future[Embeddings]") -> None:
        with self._lock:
            self._texts -= count
        seconds = time.perf_counter() - started
        fields: dict[str, object] = {
            "batch_id": batch_id,
            "chunk_count": count,
            "duration_ms": round(seconds * 1000, 1),
        }
        if done.cancelled():
            emit("embedding.batch_failed.v1", **fields, error="cancelled")
        elif (error := done.exception()) is not None:
            emit("embedding.batch_failed.v1", **fields, error=error.code if isinstance(error, AppError) else "internal")
        else:
            answer = done.result()
            emit("embedding.batch_completed.v1", **fields, model=self._provider().model, tokens=answer.tokens)
            self._observe(count, answer.tokens, seconds)
