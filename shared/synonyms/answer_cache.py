"""The keys under which answers about synonyms are cached.

A key holds the version of the data that its answer was made from (`synonyms_version`). After a change the version is
another one, so an older answer is never found again, in any process.
"""

import hashlib

import orjson

from shared.models import Caller


def cache_key(version: str, caller: Caller, *question: object) -> str:
    """The key of an answer: the version of the data, the caller and the question. A digest, so that it shows neither."""
    # Row level security may show each caller something else. The token is part of the key because claims alone prove
    # nothing where the database verifies the token: the same claims under a forged signature must not find the answer.
    token = None if caller.token is None else hashlib.sha256(caller.token.encode("utf-8", "surrogatepass")).hexdigest()
    who = [caller.role, dict(caller.claims), token]
    parts = orjson.dumps([version, who, list(question)], option=orjson.OPT_SORT_KEYS, default=str)
    return f"tonnetz:synonyms:{hashlib.sha256(parts).hexdigest()}"
