"""How long this request may wait for the provider."""

import asyncio
from concurrent.futures import Future
from typing import Annotated

from fastapi import Depends, Request

from functions.http.auth import get_services
from shared.embedding import patience
from shared.models import Embeddings

# Of the time that Lambda has left, kept back for giving rows back and for the answer.
MARGIN_SECONDS = 3.0


async def _deadline(request: Request) -> patience.Deadline | None:
    context = request.scope.get("aws.context")
    if context is not None:
        left = context.get_remaining_time_in_millis() / 1000 - MARGIN_SECONDS
        return patience.Deadline(max(min(patience.REQUEST_SECONDS, left), 0.0))
    # A model in this process is nobody's outage: what it takes is the work itself, and nobody hangs up on a server.
    in_process = get_services(request).settings.embedding_provider == "onnx"
    return None if in_process else patience.Deadline(patience.REQUEST_SECONDS)


# None: no bound.
DeadlineOf = Annotated[patience.Deadline | None, Depends(_deadline)]


async def wait_for(answer: "Future[Embeddings]", deadline: patience.Deadline | None) -> Embeddings:
    """The answer, or ProviderUnavailable when the time is up; a text that was not sent yet is not sent then."""
    if deadline is None:
        return await asyncio.wrap_future(answer)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(answer), deadline.left)
    except TimeoutError:
        raise deadline.passed() from None
