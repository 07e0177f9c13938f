"""POST /api/webhooks/embeddings: a database says that a row was written."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from mangum import Mangum
from pydantic import BaseModel, ConfigDict, Field

from functions.http.app import create_app
from functions.http.auth import NeedsWebhookSecret, ServicesOf
from functions.http.deadlines import DeadlineOf
from functions.http.schemas import Text
from functions.upsert_embeddings import FailedRow, UpsertAnswer
from shared.embedding.webhooks import RowEvent
from shared.logs import request_id

router = APIRouter(tags=["webhooks"], dependencies=[NeedsWebhookSecret])


class DatabaseWebhook(BaseModel):
    """Supabase's payload. Of `record` only the row's key is read: its text is taken from the table."""

    # Supabase may add to it.
    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    type: Literal["INSERT", "UPDATE", "DELETE"]
    table: Annotated[Text, Field(min_length=1, max_length=127, examples=["music_knowledge"])]
    # `schema` is a name of pydantic's own.
    schema_name: Annotated[Text, Field(alias="schema", max_length=127, examples=["public"])] = "public"
    record: Annotated[dict[str, Any] | None, Field(examples=[{"id": "00000000-0000-4000-8000-000000000001"}])] = None
    old_record: dict[str, Any] | None = None


@router.post("/api/webhooks/embeddings")
def receive_webhook(body: DatabaseWebhook, services: ServicesOf, deadline: DeadlineOf) -> UpsertAnswer:
    """Embed the row. Safe to deliver twice or late: the row's present text decides."""
    event = RowEvent(body.type, body.schema_name, body.table, body.record)
    report = services.webhooks.handle(event, request_id.get() or "", deadline=deadline)
    return UpsertAnswer(
        success=not report.failed,
        processed=report.processed,
        updated=report.updated,
        failed=[FailedRow(id=row_id, error=error) for row_id, error in report.failed],
        message=report.message,
    )


app = create_app("webhooks", router)
handler = Mangum(app, lifespan="off")
