"""/api/collections: how many rows of each tracked table are embedded, pending or failed; failed rows; cost estimates."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from functions.http.app import create_function
from functions.http.auth import NeedsKey, ServicesOf
from functions.http.routes import Route, takes_large_body
from functions.http.schemas import Body, CollectionName, Text
from shared.embedding.collection import Collection
from shared.embedding.coverage import CollectionStatus, list_collections, list_failures
from shared.search.filters import FILTERS

router = APIRouter(prefix="/api/collections", tags=["collections"], dependencies=[NeedsKey], route_class=Route)

MAX_ROWS = 1000

RowId = Annotated[Text, Field(min_length=1, max_length=512)]


class RowFailure(BaseModel):
    """A row that could not be embedded. It is tried again after its text changes, or after POST /{collection}/retry."""

    row_id: str
    attempts: int
    failed_at: datetime
    error: str | None


class RunningState(BaseModel):
    """The active runs of the collection, added up.

    `run_id` is the id of the latest run. `done` and `rows_per_second` are sums. `remaining` is the number of pending rows.
    """

    run_id: str
    started_at: datetime
    done: int
    remaining: int
    rows_per_second: float | None
    seconds_left: float | None


class SearchRoute(BaseModel):
    route: str = Field(examples=["/api/search/music_knowledge"])


class CollectionCoverage(BaseModel):
    """total = embedded + pending + failed. `models` counts the vectors of each model; during a switch there are two.

    `estimated` is true if the table is large: its rows are then counted on a sample; `failed` and `leased` are exact.
    `error` says why the table's rows cannot be read, and what to do; the numbers then come from the vectors and the queue.
    `search` is null if no search route serves the table. `label_column` is the column to show as a row's name; if it is
    null, show the row's text. `category_columns` are columns with few distinct values.
    """

    collection: str = Field(examples=["music_knowledge"])
    model: str | None = Field(examples=["all-MiniLM-L6-v2"])
    total: int
    embedded: int
    pending: int
    failed: int
    leased: int
    models: dict[str, int]
    estimated: bool
    error: str | None
    failures: list[RowFailure]
    search: SearchRoute | None
    label_column: str | None = Field(examples=["topic"])
    category_columns: list[str] = Field(examples=[["category"]])
    running: RunningState | None


class Collections(BaseModel):
    collections: list[CollectionCoverage]


class Failures(BaseModel):
    """The latest failed rows, and how many there are."""

    failures: list[RowFailure]
    total: int


class RetryRequest(Body):
    """Without `row_ids`, all failed rows of the collection are queued again."""

    row_ids: Annotated[list[RowId], Field(max_length=MAX_ROWS)] | None = None


class Retried(BaseModel):
    retried: int


class CostEstimate(BaseModel):
    """The estimated cost of embedding the pending rows; `cost` is in USD, null if the price is not known.

    `rows_estimated` is true if the table is large: `rows` is then estimated from a sample. `counted` says whether
    `tokens` is exact.
    """

    collection: str
    model: str = Field(examples=["all-MiniLM-L6-v2"])
    rows: int
    rows_estimated: bool
    tokens: int
    cost: float | None
    counted: Literal["exact", "estimated"]
    method: str = Field(examples=["the model's own tokenizer, on every text"])


@router.get("")
def collections(services: ServicesOf) -> Collections:
    """List the tracked tables with their row counts, latest failures and active runs."""
    return Collections(collections=[_coverage(status) for status in list_collections(services.database)])


@router.get("/{collection}/failures")
def failures(
    collection: CollectionName, services: ServicesOf, limit: Annotated[int, Query(ge=1, le=MAX_ROWS)] = 100
) -> Failures:
    """List failed rows with the reason, latest first."""
    found, total = list_failures(services.database, collection, limit)
    return Failures.model_validate({"failures": found, "total": total})


@router.post("/{collection}/retry")
@takes_large_body
def retry(collection: CollectionName, services: ServicesOf, body: RetryRequest | None = None) -> Retried:
    """Queue failed rows again with their attempts reset; the next run embeds them."""
    row_ids = body.row_ids if body else None
    return Retried(retried=Collection(services.database, collection).retry_failed_embeddings(row_ids))


@router.get("/{collection}/estimate")
def estimate(collection: CollectionName, services: ServicesOf) -> CostEstimate:
    """Estimate number, tokens and cost of the pending rows. The provider is not called, and failed rows are left out."""
    # Imported only here, because it needs numpy, and the other routes do not.
    from shared.embedding import estimate as embedding

    provider = services.providers.for_collection(Collection(services.database, collection))
    expected = embedding.estimate(services.database, provider, collection)
    return CostEstimate(**asdict(expected), cost=expected.cost_usd)


def _coverage(status: CollectionStatus) -> CollectionCoverage:
    fields = asdict(status)
    coverage = fields.pop("coverage")
    name = status.coverage.collection
    search = SearchRoute(route=f"/api/search/{name}") if name in FILTERS else None
    return CollectionCoverage(**coverage, **fields, search=search)


app, handler = create_function("collections", router)
