"""/api/tasks: starts runs over whole collections in the background and shows their state."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field

from functions.http.app import create_function
from functions.http.auth import NeedsKey, ServicesOf
from functions.http.routes import Route
from functions.http.schemas import Body, CollectionName
from shared.embedding.runs import TASK_NAME

router = APIRouter(prefix="/api/tasks", tags=["tasks"], dependencies=[NeedsKey], route_class=Route)


class TaskRequest(Body):
    """Without `collection`, the task embeds all collections."""

    collection: CollectionName | None = None
    # The default is 100 for the collection `datasets` and 50 for all others.
    batch_size: Annotated[int, Field(ge=1, le=1000)] | None = None


class TaskAccepted(BaseModel):
    task_name: str = Field(examples=[TASK_NAME])
    task_id: UUID
    status: Literal["queued"]
    message: str


class TaskCounts(BaseModel):
    processed: int
    embedded: int
    failed: int
    stale: int
    reused: int
    truncated: int
    tokens: int
    cost_usd: float


class TaskStatus(BaseModel):
    """`progress` has the counts so far, `result` the final ones (null before the end).

    A task is crashed if it has not reported for two minutes.
    """

    task_name: str
    task_id: UUID
    status: Literal["queued", "running", "completed", "failed", "interrupted", "crashed"]
    collection: str | None
    model: str | None
    progress: TaskCounts
    result: TaskCounts | None
    error: str | None
    started_at: datetime
    reported_at: datetime
    finished_at: datetime | None


@router.post("/generate-embeddings", status_code=202)
def generate_embeddings(services: ServicesOf, body: TaskRequest | None = None) -> TaskAccepted:
    """Embed pending rows in the background. Rows are leased, so tasks may overlap."""
    wanted = body or TaskRequest()
    task = services.runs.start(services.embedding_dispatcher, wanted.collection, wanted.batch_size)
    return TaskAccepted(
        task_name=TASK_NAME,
        task_id=UUID(task.task_id),
        status="queued",
        message=f"queued; see GET /api/tasks/{task.task_id}",
    )


@router.get("/{task_id}")
def get_task(task_id: UUID, services: ServicesOf) -> TaskStatus:
    """The state of a task, its counts and its error."""
    row = services.runs.get(str(task_id))
    return TaskStatus.model_validate({**row, "progress": row, "result": row if row["finished_at"] else None})


app, handler = create_function("tasks", router)
