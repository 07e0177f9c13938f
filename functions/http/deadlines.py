"""Time limits for interactive requests: AWS's HTTP API closes a connection after 30 seconds."""

import asyncio
from concurrent.futures import Future
from typing import Annotated

from fastapi import Depends, Request

from functions.http.auth import get_services
from shared.deadline import Deadline
from shared.models import Embeddings

# From the request to the answer. The rest of the 30 seconds is for the database.
REQUEST_SECONDS = 25.0
# Of the time that Lambda has left, kept back for giving rows back and for the answer.
MARGIN_SECONDS = 3.0


async def _deadline(request: Request) -> Deadline | None:
    context = request.scope.get("aws.context")
    if context is not None:
        left = context.get_remaining_time_in_millis() / 1000 - MARGIN_SECONDS
        return Deadline(max(min(REQUEST_SECONDS, left), 0.0))
    # A model in this process cannot be away, and no gateway stands in front of a server of our own.
    in_process = get_services(request).settings.embedding_provider == "onnx"
    return None if in_process else Deadline(REQUEST_SECONDS)


# None: no bound.
DeadlineOf = Annotated[Deadline | None, Depends(_deadline)]


async def wait_for(answer: "Future[Embeddings]", deadline: Deadline | None) -> Embeddings:
    """The answer, or ProviderUnavailable after the deadline; a text that still waits to be sent is then cancelled."""
    if deadline is None:
        return await asyncio.wrap_future(answer)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(answer), deadline.left)
    except TimeoutError:
        raise deadline.error() from None
