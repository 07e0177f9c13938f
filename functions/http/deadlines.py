"""Time limits for interactive requests: AWS's HTTP API closes a connection after 30 seconds."""

import asyncio
from concurrent.futures import Future
from typing import Annotated

from fastapi import Depends, Request

from shared.deadline import Deadline
from shared.models import Embeddings

# Seconds for the provider. The rest of the 30 seconds is for the database.
REQUEST_SECONDS = 25.0
# Of the time that Lambda has left, this is reserved for releasing rows and for sending the answer.
MARGIN_SECONDS = 3.0


async def _deadline(request: Request) -> Deadline | None:
    context = request.scope.get("aws.context")
    if context is not None:
        left = context.get_remaining_time_in_millis() / 1000 - MARGIN_SECONDS
        return Deadline(max(min(REQUEST_SECONDS, left), 0.0))
    # No deadline if the model runs in this process: it is always reachable, and no gateway with a time limit is in
    # between.
    in_process = request.app.state.services.settings.embedding_provider == "onnx"
    return None if in_process else Deadline(REQUEST_SECONDS)


# None: no limit.
DeadlineOf = Annotated[Deadline | None, Depends(_deadline)]


async def wait_for(answer: "Future[Embeddings]", deadline: Deadline | None) -> Embeddings:
    """Wait for the answer. After the deadline, raises ProviderUnavailable and cancels texts that were not sent yet."""
    if deadline is None:
        return await asyncio.wrap_future(answer)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(answer), deadline.left)
    except TimeoutError:
        raise deadline.error() from None
