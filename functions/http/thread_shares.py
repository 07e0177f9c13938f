"""Divides the threads of a server, so that slow requests of one kind leave threads for the other kinds."""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
        self._running: Counter[str] = Counter()
        self._waiting: defaultdict[str, deque[asyncio.Future[None]]] = defaultdict(deque)

    @asynccontextmanager
    async def share(self, kind: str) -> AsyncIterator[bool]:
        """Reserve one thread; yields whether the request waited for it. Raises Overloaded after PATIENCE seconds."""
        waits = self._running[kind] >= (KEYED_SHARE if kind == KEYED else SHARE)
        if waits:
            await self._wait(kind)
        else:
            self._running[kind] += 1
        try:
            yield waits
        finally:
            self._pass_on(kind)

    async def _wait(self, kind: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting[kind].append(turn)
        try:
            async with asyncio.timeout(PATIENCE):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                # The thread was given to this request at the moment when it stopped waiting.
                self._pass_on(kind)
            if isinstance(error, TimeoutError):
                raise Overloaded("too many requests of this kind are running; try again", retry_after=5) from None
            raise

    def _pass_on(self, kind: str) -> None:
        """Give the thread to the request that has waited longest; if none waits, count it as free."""
        queue = self._waiting.get(kind)
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._waiting.pop(kind, None)
        self._running[kind] -= 1
        if not self._running[kind]:
            del self._running[kind]
