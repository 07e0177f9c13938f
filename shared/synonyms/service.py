"""Reads and searches synonyms of genre and mood tags, caches the answers, and embeds synonyms that users write."""

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

# Seconds that a write waits for the vector of its synonyms. Until they are embedded, only full-text search finds them.
EMBED_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class SynonymHits:
    """Tags with their scores, best first. `cached` is true if they come from the cache."""

    hits: list[dict[str, Any]]
    degraded: bool
    cached: bool
    took_ms: float


class SynonymService:
    """The synonyms in one database. Without an `embedder`, synonyms that are written stay pending."""

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
        """The active synonyms of a tag, by the tag's name in any spelling. Raises NotFound if there are none."""
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
        """Find tags by the words that people use for them, in English or French. Raises the errors of SearchService."""
        started = time.perf_counter()
        # Read the version before the search, so that an answer is never stored under a version that is newer than its
        # data.
        key = self._cache_key(caller, "search", query, tag_type, limit)
        known = None if key is None else self._cache.get(key)
        cached = known is not None
        if known is None:
            filters = {"tag_type": tag_type} if tag_type else {}
            found = self._search.search(COLLECTION, query, match_count=limit, filters=filters, caller=caller)
            known = {"hits": [{**hit.row, "id": int(hit.id)} for hit in found.hits], "degraded": found.degraded}
            if key is not None and not found.degraded:
                self._cache.put(key, known)
        took_ms = round((time.perf_counter() - started) * 1000, 1)
        return SynonymHits(known["hits"], known["degraded"], cached, took_ms)

    def _cache_key(self, caller: Caller, *question: object) -> str | None:
        """The key of a cached answer. It is None for a caller who may not see every row: such answers are not cached."""
        version = self._store.synonyms_version(caller.role)
        return None if version is None else cache_key(version, caller, *question)

    def embed(self, row: dict[str, Any]) -> dict[str, Any]:
        """Embed synonyms that were just written; returns them. If that fails or takes too long they stay pending."""
        if self._embedder is not None and row["is_active"]:
            embed_synonyms(self._embedder, row["id"], deadline=Deadline(EMBED_SECONDS))
        return row


def cache_key(version: str, caller: Caller, *question: object) -> str:
    """The key of a cached answer: a digest of the version of its data, the caller and the question.

    Every change of tags or synonyms changes the version, so no process finds an older answer again.
    """
    # The token is part of the key because it may be the database that verifies it. A token with the same claims and a
    # forged signature must not find the answer.
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
