"""Join texts that arrive one by one into requests that an engine works on well."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import accumulate, pairwise

from shared.errors import AppError, Overloaded, ProviderError
from shared.models import Embeddings

MAX_TEXTS = 256
MAX_WAIT_SECONDS = 0.003


@dataclass(frozen=True, slots=True)
class _Waiting:
    text: str
    since: float
    answer: "Future[Embeddings]"


class MicroBatcher:
    """Embeds single texts, first come first served, in requests of up to `max_texts`.

    `embed` takes texts and reports refused ones in `errors`. While nothing is under way a text goes out at
    once; else it waits until one of `workers` threads is free, and up to `max_wait` for others to join.
    More than `max_waiting` texts are refused with Overloaded.
    """

    def __init__(
        self,
        embed: Callable[[Sequence[str]], Embeddings],
        *,
        count_tokens: Callable[[Sequence[str]], list[int]],
        workers: int = 2,
        max_texts: int = MAX_TEXTS,
        max_wait: float = MAX_WAIT_SECONDS,
        max_waiting: int = 2048,
    ) -> None:
        self._embed = embed
        self._count_tokens = count_tokens
        self._max_texts = max_texts
        self._max_wait = max_wait
        self._max_waiting = max_waiting
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._under_way = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"microbatch-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Texts that no request was made for yet."""
        return len(self._waiting)

    def submit(self, text: str) -> "Future[Embeddings]":
        """Embed one text; the future raises what its own text, or the whole request, failed with."""
        answer: Future[Embeddings] = Future()
        with self._changed:
            if self._closed or len(self._waiting) >= self._max_waiting:
                raise Overloaded(f"{len(self._waiting)} texts are waiting to be embedded; try again in a second")
            self._waiting.append(_Waiting(text, time.monotonic(), answer))
            # A worker that is holding its batch open looks for itself when it is full, or its time is up.
            self._changed.notify()
        return answer

    def close(self) -> None:
        """Finish what is waiting, take nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._take():
            try:
                self._answer(batch)
            finally:
                with self._changed:
                    self._under_way -= 1

    def _take(self) -> list[_Waiting]:
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return []
                # Joining costs a lone caller nothing: it is waited for others only while an engine is busy anyway.
                left = self._waiting[0].since + self._max_wait - time.monotonic()
                if self._under_way and left > 0 and len(self._waiting) < self._max_texts and not self._closed:
                    self._changed.wait(left)
                    continue
                size = min(self._max_texts, len(self._waiting))
                taken = [self._waiting.popleft() for _ in range(size)]
                # A caller that went away is not worked for.
                batch = [one for one in taken if one.answer.set_running_or_notify_cancel()]
                if batch:
                    self._under_way += 1
                    return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        # Equal texts are embedded once.
        texts = list(dict.fromkeys(one.text for one in batch))
        try:
            answers = dict(zip(texts, self._split(self._embed(texts), texts), strict=True))
        except BaseException as error:  # noqa: BLE001 - whatever it is, its callers are waiting for it
            for one in batch:
                one.answer.set_exception(error)
            return
        for one in batch:
            answer = answers[one.text]
            if isinstance(answer, AppError):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)

    def _split(self, joined: Embeddings, texts: Sequence[str]) -> list[Embeddings | ProviderError]:
        """Each text's share of the answer: its own vector, and its part of the tokens."""
        tokens = self._shares(joined.tokens, texts)
        return [
            # Who was cut is not known, only how many were: counted once, with the first.
            joined.errors.get(index)
            or Embeddings(joined.vectors[index : index + 1], tokens[index], joined.truncated if index == 0 else 0, 1)
            for index in range(len(texts))
        ]

    def _shares(self, total: int, texts: Sequence[str]) -> list[int]:
        """What the provider counted, shared out by our own count, so that the shares add up to it."""
        if len(texts) == 1:
            return [total]
        counted = list(accumulate(self._count_tokens(texts)))
        marks = [round(upto * total / max(counted[-1], 1)) for upto in counted]
        return [after - before for before, after in pairwise([0, *marks])]
