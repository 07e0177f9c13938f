"""How much of a text that is longer than the model reads is sent."""

from shared.errors import ProviderInputTooLong

# No tokenizer makes fewer tokens of prose: characters beyond this many a token are never sent.
LONGEST_TOKEN = 16


def clip(text: str, max_tokens: int) -> str:
    """The text without what lies beyond `max_tokens` tokens for certain."""
    return text[: max_tokens * LONGEST_TOKEN]


def shorten(text: str, refusal: ProviderInputTooLong, *, estimate: int, max_tokens: int | None) -> str:
    """A shorter beginning of a text that the provider refused as too long.

    It is cut by the provider's own count where the refusal states one, else by `estimate`, our count of its tokens.
    """
    limit = refusal.limit or max_tokens
    if refusal.tokens and limit and refusal.tokens > limit:
        return text[: int(len(text) * limit / refusal.tokens * 0.97)]
    far_over = limit is None or estimate > 2 * limit
    return text[: len(text) // 2 if far_over else len(text) * 3 // 4]
