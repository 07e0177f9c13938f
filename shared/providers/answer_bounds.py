"""Limits the time and the size of a whole answer. The HTTP libraries limit only the time of each single read."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

# This is the size of 2,048 vectors of 3,072 numbers with twenty characters each. No valid answer is larger.
MOST_BYTES = 128 * 2**20
CONNECT_SECONDS = 10.0


def bound_timeout(library: Any, most: float, wanted: float | None) -> Any:
    """The timeout of one request with `library` (httpx or httpx2): `wanted`, but at most the client's timeout `most`."""
    # With a timeout of zero the library would raise another error than its timeout error.
    seconds = most if wanted is None else max(min(most, wanted), 0.001)
    return library.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))


def bound_answers(library: Any) -> dict[str, list[Callable[[Any], None]]]:
    """Event hooks for a client of `library`: the read timeout then covers the whole request and its answer.

    An answer that takes longer raises ReadTimeout, one of more than MOST_BYTES raises DecodingError.
    """

    @dataclass(eq=False)
    class Bounded(library.SyncByteStream):  # type: ignore[misc]
        stream: Any
        until: float

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for chunk in self.stream:
                size += len(chunk)
                if size > MOST_BYTES:
                    raise library.DecodingError("the answer is larger than any embeddings")
                if time.monotonic() > self.until:
                    raise library.ReadTimeout("the answer does not end")
                yield chunk

        def close(self) -> None:
            self.stream.close()

    def begin(request: Any) -> None:
        timeouts = request.extensions["timeout"]
        until = request.extensions["until"] = time.monotonic() + timeouts["read"]

        def count_down(*_: Any) -> None:
            timeouts["read"] = max(until - time.monotonic(), 0.001)

        # The library calls this before each step (connect, send, read), so that each step gets only the remaining time.
        request.extensions["trace"] = count_down

    def bound(response: Any) -> None:
        response.stream = Bounded(response.stream, response.request.extensions["until"])

    return {"request": [begin], "response": [bound]}
