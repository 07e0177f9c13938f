"""GET /api/collections: how much is embedded, and what could not be."""

from datetime import datetime

from fastapi import APIRouter
from mangum import Mangum
from pydantic import BaseModel, Field

from functions.edge.app import create_app
from functions.edge.auth import NeedsKey, ProcessOf
from shared.services.coverage import list_collections

router = APIRouter(tags=["collections"], dependencies=[NeedsKey])


class RowFailure(BaseModel):
    """A parked row: it is tried again when its text changes, or after `backfill.py --retry-failed`."""

    row_id: str
    attempts: int
    failed_at: datetime
    error: str | None


class CollectionCoverage(BaseModel):
    """total = embedded + pending + failed. `models`: vectors by model, more than one while a switch is under way."""

    collection: str = Field(examples=["music_knowledge"])
    model: str | None = Field(examples=["all-MiniLM-L6-v2"])
    total: int
    embedded: int
    pending: int
    failed: int
    leased: int
    models: dict[str, int]
    failures: list[RowFailure]


class Collections(BaseModel):
    collections: list[CollectionCoverage]


@router.get("/api/collections")
def collections(process: ProcessOf) -> Collections:
    """Every tracked table, counted from its rows, with its latest failures."""
    return Collections(
        collections=[
            CollectionCoverage(
                collection=status.coverage.collection,
                model=status.coverage.model,
                total=status.coverage.total,
                embedded=status.coverage.embedded,
                pending=status.coverage.pending,
                failed=status.coverage.failed,
                leased=status.coverage.leased,
                models=dict(status.coverage.models),
                failures=[RowFailure(**failure) for failure in status.failures],
            )
            for status in list_collections(process.database)
        ]
    )


app = create_app("coverage", router)
handler = Mangum(app, lifespan="off")
