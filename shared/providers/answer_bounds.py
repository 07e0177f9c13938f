"""How long and how large a whole answer may be: the HTTP clients bound each read, and never their sum."""

import time
from collections.abc import Callable, Iterator
from typing import Any

# 2,048 vectors of 3,072 numbers with twenty characters each: no honest answer is larger.
MOST_BYTES = 128 * 2**20


def bound_answers(library: Any, seconds: float) -> Callable[[Any], None]:
    """A response hook for a client of `library` (httpx or httpx2).

    An answer that is not complete `seconds` after it began ends in ReadTimeout, one of more than
    MOST_BYTES in DecodingError.
    """

    class Bounded(library.SyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def __iter__(self) -> Iterator[bytes]:
            deadline, size = time.monotonic() + seconds, 0
            for chunk in self._stream:
                size += len(chunk)
                if size > MOST_BYTES:
                    raise library.DecodingError("the answer is larger than any embeddings")
                if time.monotonic() > deadline:
                    raise library.ReadTimeout("the answer does not end")
                yield chunk

        def close(self) -> None:
            self._stream.close()

    def bound(response: Any) -> None:
        response.stream = Bounded(response.stream)

    return bound
