"""POST /api/webhooks/embeddings: embeds the row that a database webhook reports."""

from fastapi import APIRouter

from functions.http.app import create_function
from functions.http.auth import NeedsWebhookSecret, ServicesOf
from functions.http.deadlines import DeadlineOf
from functions.http.routes import Route, takes_large_body
from functions.http.schemas import DatabaseWebhook
from functions.upsert_embeddings import UpsertAnswer, upsert_answer
from shared.embedding.webhooks import RowEvent, embed_event
from shared.logs import request_id

router = APIRouter(tags=["webhooks"], dependencies=[NeedsWebhookSecret], route_class=Route)


@router.post("/api/webhooks/embeddings")
@takes_large_body
def receive_webhook(body: DatabaseWebhook, services: ServicesOf, deadline: DeadlineOf) -> UpsertAnswer:
    """Embed the row's current text. A repeated or late delivery does no harm."""
    event = RowEvent(body.type, body.schema_name, body.table, body.record)
    report = embed_event(services.database, services.upsert, event, request_id.get() or "", deadline=deadline)
    return upsert_answer(report, report.message)


app, handler = create_function("webhooks", router)
