"""Answers about synonyms, kept for a day and never beyond a change.

A key holds the version of the data that its answer was made from (`synonyms_version`), so nothing has to be dropped:
what was made before a change is not found after it, in whichever process it lies.
"""

import hashlib
from collections.abc import Mapping
from threading import Lock
from typing import Any

import orjson
from cachetools import TTLCache

from shared.models import Caller
from shared.search.query_cache import LIFE_SECONDS, SharedCache


class AnswerCache:
    """At most `size` answers in this process, each for `seconds`; `shared` is asked next."""

    def __init__(self, shared: SharedCache | None = None, *, size: int = 2048, seconds: int = LIFE_SECONDS) -> None:
        self._shared = shared
        self._seconds = seconds
        self._local: TTLCache[str, str] = TTLCache(maxsize=size, ttl=seconds)
        self._lock = Lock()

    def get(self, key: str) -> dict[str, Any] | None:
        """The answer, None where there is none."""
        with self._lock:
            text = self._local.get(key)
        if text is None and self._shared is not None and (text := self._shared.get(key)) is not None:
            with self._lock:
                self._local[key] = text
        if text is None:
            return None
        answer: dict[str, Any] = orjson.loads(text)
        return answer

    def put(self, key: str, answer: Mapping[str, Any]) -> None:
        """Keep an answer."""
        text = orjson.dumps(dict(answer)).decode()
        with self._lock:
            self._local[key] = text
        if self._shared is not None:
            self._shared.set(key, text, self._seconds)


def cache_key(version: str, caller: Caller, *question: object) -> str:
    """The key of an answer: who asked what of which data. A digest, so that nobody's question lies in a shared cache."""
    # Row level security may show each caller something else. The token is in it because claims alone prove nothing
    # where the database verifies them: the same ones under a forged signature must not find what they did not earn.
    token = None if caller.token is None else hashlib.sha256(caller.token.encode("utf-8", "surrogatepass")).hexdigest()
    who = [caller.role, dict(caller.claims), token]
    parts = orjson.dumps([version, who, list(question)], option=orjson.OPT_SORT_KEYS, default=str)
    return f"tonnetz:synonyms:{hashlib.sha256(parts).hexdigest()}"
