"""Divides a list of texts into requests that a provider accepts."""

import math
from collections.abc import Sequence


def cut_batches(
    tokens: Sequence[int], *, max_inputs: int, max_tokens: int | None = None, lone_over: int | None = None
) -> list[list[int]]:
    """Return the indices of the texts of each request, in order, with as few requests as the limits allow.

    A text of more than `lone_over` tokens is sent alone. If the server refuses it for its length, no other text is
    refused with it, and the number of tokens in the server's answer is that of this text.
    """
    batches: list[list[int]] = []
    current: list[int] = []
    total = 0
    for index, count in enumerate(tokens):
        if lone_over is not None and count > lone_over:
            batches.append([index])
            continue
        if current and (len(current) >= max_inputs or total + count > (max_tokens or math.inf)):
            batches.append(current)
            current, total = [], 0
        current.append(index)
        total += count
    if current:
        batches.append(current)
    return batches


def estimate_tokens(text: str) -> int:
    """Estimate how many tokens a byte-pair or word-piece tokenizer makes of a text. The result is seldom too low.

    The estimate is a third of the ASCII characters plus half of the UTF-8 bytes of all others: English prose has four
    or five characters per token, Chinese about one. Only random strings have more tokens than the estimate.
    """
    octets = len(text.encode("utf-8", "replace"))
    if octets == len(text):
        return octets // 3 + 2
    plain = sum(character < "\x80" for character in text)
    return plain // 3 + (octets - plain) // 2 + 2
