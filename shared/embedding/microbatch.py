"""Joins single texts of several callers into one request, because each request costs time and money."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from shared.deadline import Deadline
from shared.errors import AppError
from shared.models import Embeddings

MAX_TEXTS = 256

Embed = Callable[[Sequence[str], Deadline | None], Embeddings]


@dataclass(frozen=True, slots=True)
class MicroBatcher:
    """Embeds single texts, first come first served, in requests of up to `max_texts`.

    If a thread is free, a text is sent at once. Texts that arrive while all threads are busy are sent together.
    The function `embed` reports refused texts in `errors`.
    """

    embed: Embed
    threads: Executor
    max_texts: int = MAX_TEXTS
    waiting: deque[tuple[str, Deadline | None, Future[Embeddings]]] = field(default_factory=deque)

    def submit(self, text: str, deadline: Deadline | None = None) -> "Future[Embeddings]":
        """Embed one text; the future raises the error of this text or of the whole request."""
        answer: Future[Embeddings] = Future()
        self.waiting.append((text, deadline, answer))
        self.threads.submit(self._send)
        return answer

    def _send(self) -> None:
        batch: dict[str, list[Future[Embeddings]]] = {}
        deadline = None
        try:
            # Equal texts are embedded once.
            while len(batch) < self.max_texts:
                text, until, answer = self.waiting.popleft()
                # Skip requests that were cancelled while they waited.
                if answer.set_running_or_notify_cancel():
                    batch.setdefault(text, []).append(answer)
                    # Texts wait in the order of their deadlines, so the last text has the latest deadline.
                    deadline = until
        except IndexError:
            pass
        if not batch:
            return
        try:
            texts = list(batch)
            shares = _shares(self.embed(texts, deadline), texts)
        except BaseException as error:  # noqa: BLE001 - every caller must get its answer
            for answers in batch.values():
                for answer in answers:
                    answer.set_exception(error)
            return
        for answers, share in zip(batch.values(), shares, strict=True):
            for answer in answers:
                if isinstance(share, AppError):
                    answer.set_exception(share)
                else:
                    answer.set_result(share)


def _shares(joined: Embeddings, texts: Sequence[str]) -> list[Embeddings | AppError]:
    """Split an answer by text. Each text gets its vector, and a share of the tokens in proportion to its length."""
    lengths = list(accumulate(0 if index in joined.errors else len(text) for index, text in enumerate(texts)))
    marks = [round(upto * joined.tokens / max(lengths[-1], 1)) for upto in lengths]
    tokens = [after - before for before, after in pairwise([0, *marks])]
    return [
        joined.errors.get(index)
        or Embeddings(
            joined.vectors[index : index + 1], tokens[index], frozenset({0} if index in joined.cut else ()), 1
        )
        for index in range(len(texts))
    ]
