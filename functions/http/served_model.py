"""The model that this server embeds with."""

import asyncio

from functions.services import Services
from shared.deadline import Deadline
from shared.models import EmbeddingModel


async def served_model(services: Services, deadline: Deadline | None) -> EmbeddingModel:
    """The model and its width."""
    service = services.embedding
    if (spec := service.known_spec) is None:
        # Use a thread, because this may create the provider or ask it for the width of its vectors.
        spec = await asyncio.to_thread(service.spec, deadline)
    return spec
