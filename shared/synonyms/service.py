"""Reads and searches synonyms of genre and mood tags, with a cache of answers, and embeds those written by hand."""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from shared.cache import Cache
from shared.database.base import Database
from shared.deadline import Deadline
from shared.embedding.rows import RowEmbedder, RowToEmbed
from shared.errors import AppError, NotFound
from shared.models import ANON, Caller
from shared.search.search import SearchService
from shared.synonyms.store import SynonymStore

log = logging.getLogger(__name__)

COLLECTION = "mir_synonyms"

# How long a write waits for the vector of its synonyms. Until they are embedded, full-text search finds them.
EMBED_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class SynonymHits:
    """Tags with their scores, best first. `cached`: answered from the cache."""

    hits: list[dict[str, Any]]
    degraded: bool
    cached: bool
    took_ms: float


class SynonymService:
    """Synonyms in one database. Without an `embedder`, synonyms that were written stay pending."""

    def __init__(
        self,
        database: Database,
        search: SearchService,
        cache: Cache | None = None,
        *,
        embedder: Callable[[], RowEmbedder] | None = None,
    ) -> None:
        self._database = database
        self._store = SynonymStore(database)
        self._search = search
        self._cache = cache or Cache()
        self._embedder = embedder

    def get(self, tag_type: str, tag_name: str, caller: Caller = ANON) -> dict[str, Any]:
        """The active synonyms of a tag, by its name in any spelling. Raises NotFound."""
        key = self._cache_key(caller, "get", tag_type, tag_name)
        known = None if key is None else self._cache.get(key)
        if known is None:
            rows = self._database.as_caller(caller).call(
                "search_mir_synonyms_by_tag", {"tag_type": tag_type, "tag_name": tag_name}
            )
            known = {"row": rows[0] if rows else None}
            if key is not None:
                self._cache.put(key, known)
        if known["row"] is None:
            raise NotFound(f"there are no synonyms for the {tag_type} {tag_name!r}")
        row: dict[str, Any] = known["row"]
        return row

    def search(self, query: str, *, tag_type: str | None = None, limit: int = 10, caller: Caller = ANON) -> SynonymHits:
        """Find tags by common words for them, in English or French. Raises the errors of SearchService.search."""
        started = time.perf_counter()
        # The version is read before the search, so an answer is never cached under a version newer than its data.
        key = self._cache_key(caller, "search", query, tag_type, limit)
        known = None if key is None else self._cache.get(key)
        cached = known is not None
        if known is None:
            filters = {"tag_type": tag_type} if tag_type else {}
            found = self._search.search(COLLECTION, query, match_count=limit, filters=filters, caller=caller)
            known = {"hits": [hit.as_dict() | {"id": int(hit.id)} for hit in found.hits], "degraded": found.degraded}
            if key is not None and not found.degraded:
                self._cache.put(key, known)
        took_ms = round((time.perf_counter() - started) * 1000, 1)
        return SynonymHits(known["hits"], known["degraded"], cached, took_ms)

    def _cache_key(self, caller: Caller, *question: object) -> str | None:
        """The key of a cached answer; None for a caller who may not see every row, whose answers are not cached."""
        version = self._store.synonyms_version(caller.role)
        return None if version is None else cache_key(version, caller, *question)

    def embed(self, row: dict[str, Any]) -> dict[str, Any]:
        """Embed synonyms that were just written; returns them. If that fails or takes too long they stay pending."""
        if self._embedder is not None and row["is_active"]:
            embed_synonyms(self._embedder, row["id"], deadline=Deadline(EMBED_SECONDS))
        return row


def cache_key(version: str, caller: Caller, *question: object) -> str:
    """The key of a cached answer: the version of its data, the caller and the question, as a digest.

    After a change of tags or synonyms the version is another one, so an older answer is never found again, in any
    process.
    """
    # The token is part of the key because the database may be the one that verifies it: a token with the same claims and
    # a forged signature must not find the answer.
    token = None if caller.token is None else hashlib.sha256(caller.token.encode("utf-8", "surrogatepass")).hexdigest()
    who = [caller.role, dict(caller.claims), token]
    parts = orjson.dumps([version, who, list(question)], option=orjson.OPT_SORT_KEYS, default=str)
    return f"tonnetz:synonyms:{hashlib.sha256(parts).hexdigest()}"


def embed_synonyms(embedder: Callable[[], RowEmbedder], synonyms_id: int, *, deadline: Deadline | None = None) -> None:
    """Embed a row now. If that fails, the row stays pending; until it is embedded, full-text search finds it."""
    try:
        embedder().embed_rows(COLLECTION, [RowToEmbed(str(synonyms_id))], f"synonyms-{synonyms_id}", deadline=deadline)
    except AppError as error:
        log.warning("synonyms %s stay pending: %s", synonyms_id, error.message)
