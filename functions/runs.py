"""GET /api/runs and GET /api/costs: the latest runs, and their cost by day and model."""

from dataclasses import asdict
from datetime import date, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from functions.http.app import create_function
from functions.http.auth import NeedsKey, ServicesOf
from functions.http.routes import Route
from functions.http.schemas import CollectionName
from shared.embedding.run_history import list_costs, list_runs

router = APIRouter(tags=["runs"], dependencies=[NeedsKey], route_class=Route)

Cost = Annotated[float | None, Field(description="USD; null if the model's price is not known", examples=[0.0021])]


class Run(BaseModel):
    """`collection` is null for runs of `kind` generation, and for runs over all collections.

    During a run over all collections, each of them has a run of its own, too. `rows` = embedded + failed + stale (the text changed
    during the run). `reused` rows were embedded with the vector of an equal text, at no cost. A run is crashed if it has not
    ended and has not reported for two minutes.
    """

    run_id: str
    kind: Literal["embedding", "generation"]
    collection: str | None = Field(examples=["music_knowledge"])
    model: str | None = Field(examples=["all-MiniLM-L6-v2"])
    state: Literal["queued", "running", "finished", "failed", "interrupted", "crashed"] = Field(
        validation_alias="status"
    )
    started_at: datetime
    ended_at: datetime | None
    seconds: float
    rows: int = Field(validation_alias="processed")
    embedded: int
    reused: int
    stale: int
    failed: int
    calls: int
    tokens: int
    cost: Cost
    error: str | None


class Runs(BaseModel):
    runs: list[Run]


class CostEntry(BaseModel):
    """The runs of one model that began on one day (UTC)."""

    day: date
    model: str = Field(examples=["text-embedding-3-small"])
    runs: int
    embedded: int
    tokens: int
    cost: Cost


class CostTotal(BaseModel):
    tokens: int
    cost: float


class Budget(BaseModel):
    """EMBEDDING_BUDGET_PER_DAY in USD, what today (UTC) has cost so far, and the seconds until it starts again."""

    limit: float
    spent: float
    resets_in: float


class Costs(BaseModel):
    """`total.cost` leaves out models without a known price. `budget` is null if no budget is set."""

    days: int
    currency: Literal["USD"]
    entries: list[CostEntry]
    total: CostTotal
    budget: Budget | None


@router.get("/api/runs")
def runs(
    services: ServicesOf,
    collection: Annotated[CollectionName | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Runs:
    """The latest runs, of one collection or of all."""
    return Runs(runs=[Run(**run) for run in list_runs(services.database, collection, limit)])


@router.get("/api/costs")
def costs(services: ServicesOf, days: Annotated[int, Query(ge=1, le=366)] = 30) -> Costs:
    """Tokens and cost by day and model."""
    found = list_costs(services.database, days)
    return Costs(
        days=days,
        currency="USD",
        entries=[CostEntry(**entry) for entry in found.entries],
        total=CostTotal(tokens=found.tokens, cost=found.cost),
        budget=Budget(**asdict(services.budget.state())) if services.budget else None,
    )


app, handler = create_function("runs", router)
