"""Turns arrays of token ids, which some clients of OpenAI's API send, into texts. Needs tiktoken, the extra `tokens`."""

import asyncio
import threading
from concurrent.futures import Future
from importlib.util import find_spec
from typing import TYPE_CHECKING

from functions.http.schemas import check_text
from shared.embedding.background import in_background
from shared.errors import InvalidRequest

if TYPE_CHECKING:
    from tiktoken import Encoding

# The encoding of OpenAI's embedding models. OpenAI's clients also use it for models that they do not know.
ENCODING = "cl100k_base"
# tiktoken fetches the encoding once, from the internet or from TIKTOKEN_CACHE_DIR, and waits for it without a limit.
LOAD_SECONDS = 10.0
CURE = "send texts (LangChain: check_embedding_ctx_length=False)"

_lock = threading.Lock()
_loading: "Future[Encoding] | None" = None


async def decode_tokens(inputs: list[str] | list[list[int]]) -> list[str]:
    """Return texts as they are, and arrays of token ids as texts. Raises InvalidRequest if the ids cannot be decoded."""
    if isinstance(inputs[0], str):
        return inputs
    if find_spec("tiktoken") is None:
        raise InvalidRequest(f"input: arrays of tokens need tiktoken, which this server does not have; {CURE}")
    try:
        encoding = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(_encoding())), LOAD_SECONDS)
    except Exception as error:
        # A download can fail with errors of several packages.
        raise InvalidRequest(f"input: the tokens of {ENCODING} cannot be loaded on this server; {CURE}") from error
    return await asyncio.to_thread(lambda: [_decode(encoding, tokens) for tokens in inputs])


def _encoding() -> "Future[Encoding]":
    """The encoding. Concurrent requests share one load; after a failed load, the next request starts another."""
    global _loading
    with _lock:
        if _loading is None or (_loading.done() and _loading.exception()):
            _loading = in_background(_load, "tiktoken")
        return _loading


def _load() -> "Encoding":
    import tiktoken

    return tiktoken.get_encoding(ENCODING)


def _decode(encoding: "Encoding", tokens: list[int]) -> str:
    try:
        # A client that cuts a long text between tokens may leave half a character at its end.
        text = encoding.decode(tokens, errors="ignore")
    except (KeyError, OverflowError):
        raise InvalidRequest(f"input: these are not tokens of {ENCODING}; {CURE}") from None
    try:
        if not text:
            raise ValueError("a text must not be empty")
        return check_text(text)
    except ValueError as error:
        raise InvalidRequest(f"input: {error}") from None
