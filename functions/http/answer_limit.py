"""The size of an answer that Lambda carries, and the refusal of a request whose answer would be larger."""

from typing import Annotated

import orjson
from fastapi import Depends, Request

from shared.errors import InvalidRequest

# Lambda refuses an answer above 6,291,556 bytes after the work is done, and the caller sees a 502. The rest is for headers.
MAX_ANSWER_BYTES = 5_500_000
# A number of a unit vector in JSON, with its comma. Its average is 12.0 bytes at 96 dimensions and 12.7 at 4,096.
_NUMBER_BYTES = 13
# pgvector stores no wider vector.
_MAX_DIMENSIONS = 16_000
# Field names and punctuation around each vector, and around all of them.
_ITEM_BYTES, _ENVELOPE_BYTES = 80, 1_000


class AnswerTooLarge(InvalidRequest, code="answer_too_large", status=413):
    """The answer is larger than Lambda can carry."""


async def _on_lambda(request: Request) -> bool:
    # Mangum adds the event. A server of our own has no such limit.
    return "aws.event" in request.scope


OnLambda = Annotated[bool, Depends(_on_lambda)]


def may_be_too_large(vectors: int) -> bool:
    """Whether so many vectors could be too large for an answer, if they were as wide as possible."""
    return vectors > _most(_MAX_DIMENSIONS * _NUMBER_BYTES)


def check_answer_fits(field: str, vectors: int, dimensions: int, *, base64: bool = False, names: int = 0) -> None:
    """Raise AnswerTooLarge if an answer cannot carry these vectors; `names` is the size of the longest name beside one.

    Call it before the provider is asked, because an answer that is refused afterwards was paid.
    """
    vector = (4 * dimensions + 2) // 3 * 4 if base64 else _NUMBER_BYTES * dimensions
    most = _most(vector + names)
    if vectors > most:
        size = vectors * (vector + names) / 1e6
        raise AnswerTooLarge(
            f"{field}: the answer would have {size:.1f} MB, and Lambda carries {MAX_ANSWER_BYTES / 1e6:.1f}; "
            f"ask for at most {most}"
        )


def escaped_size(text: str) -> int:
    """The bytes of a text in the JSON of an answer, which is itself a text in Lambda's JSON."""
    return len(orjson.dumps(orjson.dumps(text).decode()))


def _most(item_bytes: int) -> int:
    return (MAX_ANSWER_BYTES - _ENVELOPE_BYTES) // (item_bytes + _ITEM_BYTES)
