"""POST /api/upsert-embeddings: embeds the rows that the request names."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from functions.http.app import create_function
from functions.http.auth import NeedsKey, ServicesOf
from functions.http.deadlines import DeadlineOf
from functions.http.routes import Route, takes_large_body
from functions.http.schemas import Body, CollectionName, SomeText, Text
from shared.embedding.rows import RowsReport, RowToEmbed
from shared.embedding.webhooks import EventReport
from shared.logs import request_id

router = APIRouter(tags=["rows"], dependencies=[NeedsKey], route_class=Route)

MAX_ROWS = 1000


class UpsertRow(Body):
    """`text` is optional and must equal the row's text, because the vector is made from the row's text."""

    id: Annotated[Text, Field(min_length=1, max_length=512, examples=["00000000-0000-4000-8000-000000000001"])] | int
    text: SomeText | None = None


class UpsertRequest(Body):
    rows: list[UpsertRow] = Field(min_length=1, max_length=MAX_ROWS)
    collection: CollectionName = "music_knowledge"


class FailedRow(BaseModel):
    id: str
    error: str = Field(examples=["there is no such row"])


class UpsertAnswer(BaseModel):
    """`processed` rows were checked; `updated` of them have a new vector, the others already had one or `failed`."""

    success: bool
    processed: int
    updated: int
    failed: list[FailedRow]
    message: str = Field(examples=["2 of 2 rows have their vector, 1 of them new"])


@router.post("/api/upsert-embeddings")
@takes_large_body
def upsert_embeddings(body: UpsertRequest, services: ServicesOf, deadline: DeadlineOf) -> UpsertAnswer:
    """Embed these rows before answering. A row that has its vector already costs nothing."""
    rows = [RowToEmbed(str(row.id), row.text) for row in body.rows]
    report = services.upsert.embed_rows(body.collection, rows, request_id.get() or "", deadline=deadline)
    done = report.processed - len(report.failed)
    return upsert_answer(report, f"{done} of {report.processed} rows have their vector, {report.updated} of them new")


def upsert_answer(report: RowsReport | EventReport, message: str) -> UpsertAnswer:
    """Convert a report to this route's answer."""
    return UpsertAnswer(
        success=not report.failed,
        processed=report.processed,
        updated=report.updated,
        failed=[FailedRow(id=row_id, error=error) for row_id, error in report.failed],
        message=message,
    )


app, handler = create_function("upsert_embeddings", router)
