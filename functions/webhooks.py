"""POST /api/webhooks/embeddings: embeds the row that a database webhook reports."""

from fastapi import APIRouter
from mangum import Mangum

from functions.http.app import create_app
from functions.http.auth import NeedsWebhookSecret, ServicesOf
from functions.http.deadlines import DeadlineOf
from functions.http.schemas import DatabaseWebhook
from functions.upsert_embeddings import FailedRow, UpsertAnswer
from shared.embedding.webhooks import RowEvent
from shared.logs import request_id

router = APIRouter(tags=["webhooks"], dependencies=[NeedsWebhookSecret])


@router.post("/api/webhooks/embeddings")
def receive_webhook(body: DatabaseWebhook, services: ServicesOf, deadline: DeadlineOf) -> UpsertAnswer:
    """Embed the row's current text. A repeated or late delivery does no harm."""
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
