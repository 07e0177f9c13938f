"""Refuses requests whose answer would be larger than Lambda can send."""

import orjson

from shared.errors import InvalidRequest

# Mangum, which runs the application on Lambda, adds this to the scope of a request. Outside Lambda there is no limit.
LAMBDA_EVENT = "aws.event"
# Lambda refuses an answer above 6,291,556 bytes. It does so after the work is done, and the caller gets a 502. This limit
# is lower, to leave room for headers.
MAX_ANSWER_BYTES = 5_500_000
# Bytes of one number of a unit vector in JSON, with its comma. The average is 12.0 at 96 dimensions and 12.7 at 4,096.
_NUMBER_BYTES = 13
# pgvector stores no wider vector.
_MAX_DIMENSIONS = 16_000
# Bytes of field names and punctuation: around each vector, and around the whole answer.
_ITEM_BYTES, _ENVELOPE_BYTES = 80, 1_000


class AnswerTooLarge(InvalidRequest, code="answer_too_large", status=413):
    """The answer is larger than Lambda can send."""


def may_be_too_large(vectors: int) -> bool:
    """Whether this number of vectors could be too large for an answer, if each had the most dimensions possible."""
    return vectors > _most(_MAX_DIMENSIONS * _NUMBER_BYTES)


def check_answer_fits(field: str, vectors: int, dimensions: int, *, base64: bool = False, names: int = 0) -> None:
    """Raise AnswerTooLarge if these vectors do not fit into an answer.

    `names` is the largest number of bytes that the caller's own names add to one vector. Call this before the provider:
    an answer that is refused after the provider's call has to be paid.
    """
    vector = (4 * dimensions + 2) // 3 * 4 if base64 else _NUMBER_BYTES * dimensions
    most = _most(vector + names)
    if vectors > most:
        size = vectors * (vector + names) / 1e6
        raise AnswerTooLarge(
            f"{field}: the answer would have {size:.1f} MB, but Lambda can send only {MAX_ANSWER_BYTES / 1e6:.1f}; "
            f"ask for at most {most}"
        )


def escaped_size(text: str) -> int:
    """The bytes of a text that is encoded as JSON twice: in the answer, and in Lambda's JSON around the answer."""
    return len(orjson.dumps(orjson.dumps(text).decode()))


def _most(item_bytes: int) -> int:
    return (MAX_ANSWER_BYTES - _ENVELOPE_BYTES) // (item_bytes + _ITEM_BYTES)
