"""Limits how long calls of the database take, and how many connections each kind of call uses at a time."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from shared.errors import DatabaseBusy


@dataclass(frozen=True, slots=True)
class Limits:
    """The time limits of a statement and of each wait for a lock, in PostgreSQL's notation: 8s, 10min."""

    statement: str
    lock: str

    @property
    def statements(self) -> tuple[str, ...]:
        """The statements that set these limits for the rest of the transaction."""
        return f"set local statement_timeout = '{self.statement}'", f"set local lock_timeout = '{self.lock}'"


# For a search, or another call with the rights of the caller. Supabase sets the same statement time for its role
# `authenticated`.
CALLER = Limits("8s", "2s")
# For a call that a request waits for: gateways close a connection after 30 seconds.
REQUEST = Limits("25s", "2s")
# For a backfill in a server. The lock that it waits for is usually held by a long transaction or a migration.
WORK = Limits("10min", "1min")

# Prefixes of the functions that need no key, or that every search calls. Each function is, for each collection, a kind
# of its own.
_OPEN = ("search_", "similar_rows", "collection_models", "ping_embeddings", "embedding_costs")


class Shares:
    """Lets the calls of one kind use only a part of the connections. So a locked table does not block all of them.

    The calls of a search function on one collection may use half of the `connections`. All calls that are not part of a
    search may use three eighths together. A small number of connections is not divided.
    """

    def __init__(self, connections: int) -> None:
        self._divided = connections >= 8
        self._of_a_search = connections // 2
        self._of_the_rest = connections * 3 // 8
        # A semaphore is dropped when no call of its kind runs or waits.
        self._shares: WeakValueDictionary[str, threading.Semaphore] = WeakValueDictionary()
        self._lock = threading.Lock()

    @contextmanager
    def share(self, function: str, arguments: Mapping[str, object], seconds: float) -> Iterator[None]:
        """Reserve one connection for a call. Raises DatabaseBusy if none becomes free for its kind within `seconds`."""
        if not self._divided:
            yield
            return
        kind, most = "other calls", self._of_the_rest
        if function.startswith(_OPEN):
            kind, most = f"{function} {str(arguments.get('collection', '')).removeprefix('public.')}", self._of_a_search
        with self._lock:
            share = self._shares.setdefault(kind, threading.Semaphore(most))
        if not share.acquire(timeout=seconds):
            raise DatabaseBusy("calls of this kind use their whole share of the connections; try again later")
        try:
            yield
        finally:
            share.release()
