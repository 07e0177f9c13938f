"""The server of `python -m functions.local`: uvicorn with limits for connections."""

import asyncio
import resource
from typing import Any

import uvicorn
from fastapi import FastAPI

from functions.http.protocol import NO_ROOM, LimitedProtocol, slowest

# The most open connections; fewer if the process may open fewer files.
MAX_CONNECTIONS = 1000
# The number of files that the process needs for other purposes: the database, the provider, logs.
_OTHER_FILES = 200
_FEWEST_CONNECTIONS = 50


class _Protocol(LimitedProtocol):
    """Makes room for a new connection by closing one that does not complete its request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self.connections) > _most_connections():
            others = (one for one in self.connections if one is not self)
            (slowest(others) or self).refuse(*NO_ROOM)


class LimitedServer(uvicorn.Server):
    """A uvicorn server that closes connections whose request or client takes too long."""

    async def on_tick(self, counter: int) -> bool:
        """Check the connections once a second; uvicorn calls this every tenth of a second."""
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, LimitedProtocol):
                    connection.check_time(now)
        return await super().on_tick(counter)


def server_config(app: FastAPI, **options: Any) -> uvicorn.Config:
    """The settings of the server; RequestMiddleware writes the access log."""
    return uvicorn.Config(
        app, http=_Protocol, log_config=None, access_log=False, server_header=False, ws="none", **options
    )


def _most_connections() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if files < 0 else max(_FEWEST_CONNECTIONS, min(MAX_CONNECTIONS, files - _OTHER_FILES))
