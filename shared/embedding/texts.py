"""Embed texts for callers of the functions: joined where they come one by one, bounded, and told of in events."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

from shared.embedding.patience import Deadline, answer_within, hasten
from shared.errors import AppError, Overloaded, ProviderInputRejected
from shared.events import emit
from shared.models import EmbeddingModel, Embeddings

if TYPE_CHECKING:
    from shared.embedding.microbatch import MicroBatcher
    from shared.providers.base import EmbeddingProvider

InputKind = Literal["document", "query"]

# Texts of all requests that may wait or be under way at once; beyond, callers are asked to come back.
MAX_TEXTS_WAITING = 8192

# How many texts a request held, the tokens they cost and the seconds it took.
Observe = Callable[[int, int, float], None]


class EmbeddingService:
    """Embeds with one provider, from any number of threads, for callers who wait: outages are not waited out.

    `joins`: this process serves many callers at once, so that single texts are joined into larger
    requests. `workers` is how many requests to the provider are under way at once.
    """

    def __init__(
        self,
        provider: "Callable[[], EmbeddingProvider]",
        *,
        joins: bool,
        workers: int = 4,
        observe: Observe | None = None,
    ) -> None:
        self._provider = provider
        self._joins = joins
        self._workers = workers
        self._observe = observe or (lambda *_: None)
        self._lock = threading.Lock()
        self._batchers: dict[InputKind, MicroBatcher] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._texts = 0
        self._spec: EmbeddingModel | None = None

    @property
    def provider(self) -> "EmbeddingProvider":
        """The provider, made if need be."""
        return self._provider()

    @property
    def known_spec(self) -> EmbeddingModel | None:
        """The provider's model, None until `spec` has asked."""
        return self._spec

    def spec(self, deadline: Deadline | None) -> EmbeddingModel:
        """The provider's model. Makes the provider, and asks it for a width that nobody knows, within the time given."""
        if self._spec is None:
            self._spec = answer_within(lambda: self._provider().spec, deadline)
        return self._spec

    @property
    def waiting(self) -> int:
        """Texts that were taken and not answered yet."""
        return self._texts

    def submit(self, texts: Sequence[str], kind: InputKind, batch_id: str) -> "Future[Embeddings]":
        """Embed one request's texts; row i of the vectors belongs to text i.

        The future raises ProviderError; one refused text fails the request, naming its place. Raises
        Overloaded where too much is waiting already.
        """
        with self._lock:
            if self._texts + len(texts) > MAX_TEXTS_WAITING and self._texts:
                raise Overloaded(f"{self._texts} texts are waiting to be embedded; try again in a second")
            self._texts += len(texts)
        started = time.perf_counter()
        try:
            answer = self._send(texts, kind)
        except BaseException:
            with self._lock:
                self._texts -= len(texts)
            raise
        emit("embedding.batch_started.v1", batch_id=batch_id, chunk_count=len(texts))
        answer.add_done_callback(lambda done: self._finish(done, len(texts), batch_id, started))
        return answer

    def close(self) -> None:
        """Finish what is under way."""
        with self._lock:
            batchers, self._batchers = list(self._batchers.values()), {}
            threads, self._threads = self._threads, None
        for batcher in batchers:
            batcher.close()
        if threads is not None:
            threads.shutdown(wait=True)

    def _send(self, texts: Sequence[str], kind: InputKind) -> "Future[Embeddings]":
        if self._joins and len(texts) == 1:
            return self._batcher(kind).submit(texts[0])
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self._workers, thread_name_prefix="embed")
            threads = self._threads
        return threads.submit(self._embed_request, texts, kind)

    def _embed(self, texts: Sequence[str], kind: InputKind) -> Embeddings:
        from shared.providers.base import InputType

        return hasten(self._provider()).embed(texts, InputType(kind), isolate=True)

    def _embed_request(self, texts: Sequence[str], kind: InputKind) -> Embeddings:
        answer = self._embed(texts, kind)
        for index, error in answer.errors.items():
            raise ProviderInputRejected(f"text {index + 1} of {len(texts)}: {error.message}")
        return answer

    def _batcher(self, kind: InputKind) -> "MicroBatcher":
        with self._lock:
            if kind not in self._batchers:
                from shared.embedding.microbatch import MicroBatcher

                self._batchers[kind] = MicroBatcher(
                    lambda texts: self._embed(texts, kind),
                    count_tokens=lambda texts: self._provider().count_tokens(texts),
                    workers=self._workers,
                )
            return self._batchers[kind]

    def _finish(self, done: "Future[Embeddings]", count: int, batch_id: str, started: float) -> None:
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
