"""Forms batches of token sequences of similar length from many callers, and computes them in a few parallel threads."""

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from shared.errors import ProviderError
from shared.models import Vectors

Tokens = NDArray[np.int64]
Forward = Callable[[Tokens, Tokens], Vectors]

# The number of tokens of one batch, with padding. 256 to 1,024 were measured as equally fast, 2,048 as 8 % and 4,096 as
# 20 % slower.
BATCH_TOKENS = 512
# If few sequences wait, they are divided among the streams (the threads), in batches of at least this many tokens.
SMALLEST_BATCH_TOKENS = 256
# Sequences are padded to a multiple of this length, so that onnxruntime prepares kernels for fewer shapes.
LENGTH_STEP = 8
# The most sequences of one call that wait here: enough to form batches of similar length, and a limit on memory.
WINDOW = 4096
# One in this many batches starts with a sequence of the oldest call. Otherwise many small calls could block it for ever.
OLDEST_TURN = 4
CLOSE_SECONDS = 10.0
CLOSED = "the embedding engine was closed"


@dataclass(eq=False, slots=True)
class _Call:
    """The state of one call of `compute`: waiting sequences by padded length, and finished vectors.

    It is read and changed only under the pool's lock.
    """

    changed: threading.Condition
    waiting: defaultdict[int, list[tuple[int, Tokens]]] = field(default_factory=partial(defaultdict, list))
    waiting_count: int = 0
    vectors: list[Vectors | None] = field(default_factory=list)
    done: int = 0
    error: BaseException | None = None


_Batch = list[tuple[_Call, int, Tokens]]


class StreamPool:
    """A queue for all callers, so that a batch can contain sequences of several small calls.

    `forward` computes n vectors from n padded sequences of token ids and their mask; `streams` threads call it at the
    same time. The call with the fewest waiting sequences goes first, so that a query does not wait for a backfill.
    """

    def __init__(self, forward: Forward, streams: int) -> None:
        self._forward = forward
        self._streams = streams
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._calls: list[_Call] = []
        self._waiting_tokens = 0
        self._turn = 0
        self._closed = False
        self._process = os.getpid()
        self._threads = [
            threading.Thread(target=self._serve, name=f"onnx-stream-{number}", daemon=True) for number in range(streams)
        ]
        for thread in self._threads:
            thread.start()

    def compute(self, parts: Iterable[Sequence[Tokens]]) -> list[Vectors]:
        """Return one vector for each sequence, in order. Later `parts` are read while the first sequences are computed."""
        call = _Call(threading.Condition(self._lock))
        try:
            for part in parts:
                for start in range(0, len(part), WINDOW):
                    self._add(call, part[start : start + WINDOW])
            with self._lock:
                while not (call.error or call.done == len(call.vectors)):
                    call.changed.wait()
        finally:
            # If the caller is interrupted, do not compute its remaining sequences.
            with self._lock:
                self._drop(call)
        if call.error:
            raise call.error
        return [vector for vector in call.vectors if vector is not None]

    def close(self) -> None:
        """Make waiting calls fail, finish the current batches and end the threads. In a forked child, do nothing."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closed = True
            for call in list(self._calls):
                self._fail(call, ProviderError(CLOSED))
            self._work.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(CLOSE_SECONDS)

    def _add(self, call: _Call, sequences: Sequence[Tokens]) -> None:
        with self._lock:
            # Wait while WINDOW sequences of the call are waiting, so that the caller tokenizes only so many in advance.
            while not call.error and call.waiting_count + len(sequences) > max(WINDOW, len(sequences)):
                call.changed.wait()
            if self._closed:
                raise ProviderError(CLOSED)
            if call.error:
                raise call.error
            for sequence in sequences:
                length = -(-max(len(sequence), 1) // LENGTH_STEP) * LENGTH_STEP
                call.waiting[length].append((len(call.vectors), sequence))
                call.vectors.append(None)
                self._waiting_tokens += length
            call.waiting_count += len(sequences)
            if call not in self._calls:
                self._calls.append(call)
            self._work.notify_all()

    def _drop(self, call: _Call) -> None:
        self._waiting_tokens -= sum(length * len(sequences) for length, sequences in call.waiting.items())
        call.waiting.clear()
        call.waiting_count = 0
        if call in self._calls:
            self._calls.remove(call)

    def _fail(self, call: _Call, error: BaseException) -> None:
        self._drop(call)
        call.error = error
        call.changed.notify_all()

    def _serve(self) -> None:
        while True:
            with self._lock:
                while not (self._closed or self._waiting_tokens):
                    self._work.wait()
                if self._closed:
                    return
                batch = self._take_batch()
            result: Vectors | Exception
            try:
                result = self._forward(*_padded([tokens for _, _, tokens in batch]))
            except Exception as error:  # noqa: BLE001 - the callers get it; this thread must go on
                result = error
            self._finish(batch, result)

    def _take_batch(self) -> _Batch:
        """Take a batch: the longest sequence of the next call, and then the next shorter sequences of all calls."""
        waiting = [call for call in self._calls if call.waiting_count]
        self._turn += 1
        first = waiting[0] if self._turn % OLDEST_TURN == 0 else min(waiting, key=attrgetter("waiting_count"))
        calls = [first, *(call for call in waiting if call is not first)]
        longest = max(first.waiting)
        share = max(SMALLEST_BATCH_TOKENS, min(BATCH_TOKENS, self._waiting_tokens // self._streams))
        room = max(1, share // longest)
        batch: _Batch = []
        # Take no sequence shorter than three quarters of that length: its padding costs more time than a smaller batch.
        for length in range(longest, max(0, longest * 3 // 4 - LENGTH_STEP), -LENGTH_STEP):
            for call in calls:
                while len(batch) < room and (sequences := call.waiting.get(length)):
                    batch.append((call, *sequences.pop()))
                    if not sequences:
                        del call.waiting[length]
                    call.waiting_count -= 1
                    self._waiting_tokens -= length
        for call in {id(call): call for call, _, _ in batch}.values():
            call.changed.notify_all()
        return batch

    def _finish(self, batch: _Batch, result: Vectors | Exception) -> None:
        with self._lock:
            for number, (call, position, _) in enumerate(batch):
                if isinstance(result, Exception):
                    self._fail(call, result)
                    continue
                call.vectors[position] = result[number]
                call.done += 1
                if call.done == len(call.vectors):
                    call.changed.notify_all()


def _padded(sequences: Sequence[Tokens]) -> tuple[Tokens, Tokens]:
    length = -(-max(1, *map(len, sequences)) // LENGTH_STEP) * LENGTH_STEP
    ids = np.zeros((len(sequences), length), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask
