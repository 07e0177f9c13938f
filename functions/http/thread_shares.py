"""Divides the threads of a server, so that slow requests of one kind leave threads for the other kinds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from shared.errors import Overloaded

# The number of threads of a server. Most of them wait for the database or the provider.
THREADS = 160
# The most threads that one kind of request uses at a time; further requests wait. Requests with a key have a larger
# share, because webhooks come in bursts and have a key.
SHARE = 12
KEYED = "keyed"
KEYED_SHARE = 32
# The most seconds that a request waits for a thread. A gateway waits 30 seconds for the answer.
PATIENCE = 20.0


class ThreadShares:
    """Lets SHARE requests of each kind run at a time, and KEYED_SHARE of those with a key, on one event loop."""

    def __init__(self) -> None:
        # A semaphore is dropped when no request of its kind runs or waits.
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def share(self, kind: str) -> AsyncIterator[bool]:
        """Reserve one thread; yields whether the request waited for it. Raises Overloaded after PATIENCE seconds."""
        share = self._shares.get(kind)
        if share is None:
            share = self._shares[kind] = asyncio.Semaphore(KEYED_SHARE if kind == KEYED else SHARE)
        waits = share.locked()
        try:
            async with asyncio.timeout(PATIENCE if waits else None):
                await share.acquire()
        except TimeoutError:
            raise Overloaded("too many requests of this kind are running; try again", retry_after=5) from None
        try:
            yield waits
        finally:
            share.release()
