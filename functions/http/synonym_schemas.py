"""The answer to a request for synonyms, shared by the synonym routes and their webhook."""

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field

from shared.embedding.runs import SYNONYMS_TASK_NAME


class GenerationAccepted(BaseModel):
    """`task_id` is null if no tag needs synonyms."""

    task_name: str = Field(examples=[SYNONYMS_TASK_NAME])
    task_id: UUID | None
    status: Literal["queued", "skipped"]
    message: str


def accepted(task_id: str | None, requested: int) -> GenerationAccepted:
    """The answer to a request for synonyms."""
    if task_id is None:
        return skipped("no tag needs synonyms")
    message = f"{requested} tags queued; see GET /api/tasks/{task_id}"
    return GenerationAccepted(task_name=SYNONYMS_TASK_NAME, task_id=UUID(task_id), status="queued", message=message)


def skipped(message: str) -> GenerationAccepted:
    """The answer to a request that started no run."""
    return GenerationAccepted(task_name=SYNONYMS_TASK_NAME, task_id=None, status="skipped", message=message)
