"""Time limits for interactive requests: AWS's HTTP API closes a connection after 30 seconds."""

import asyncio
from concurrent.futures import Future
from typing import Annotated

from fastapi import Depends, Request

from shared.deadline import Deadline
from shared.models import Embeddings

# Seconds for the provider. The rest of the 30 seconds is for the database.
REQUEST_SECONDS = 25.0
# Seconds before Lambda's own time limit that are reserved for releasing rows and for sending the answer.
MARGIN_SECONDS = 3.0


async def _deadline(request: Request) -> Deadline | None:
    context = request.scope.get("aws.context")
    if context is not None:
        left = context.get_remaining_time_in_millis() / 1000 - MARGIN_SECONDS
        return Deadline(max(min(REQUEST_SECONDS, left), 0.0))
    # A model that runs in this process needs no deadline: it is always reachable, and on a server of its own no AWS
    # gateway with a time limit stands before it.
    in_process = request.app.state.services.settings.embedding_provider == "onnx"
    return None if in_process else Deadline(REQUEST_SECONDS)


# None means that there is no time limit.
DeadlineOf = Annotated[Deadline | None, Depends(_deadline)]


async def wait_for(answer: "Future[Embeddings]", deadline: Deadline | None) -> Embeddings:
    """Wait for the answer. After the deadline, raises ProviderUnavailable and cancels texts that were not sent yet."""
    if deadline is None:
        return await asyncio.wrap_future(answer)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(answer), deadline.left)
    except TimeoutError:
        raise deadline.error() from None
