"""Lists past and active runs, and their cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.database.base import Database
from shared.models import split_model_name
from shared.providers.prices import OPENAI_PRICES

# Statuses that have another name in the API than in the database.
STATES = {"completed": "finished"}


@dataclass(frozen=True, slots=True)
class Running:
    """The active runs of a collection, added up. Rate and remaining time are None before the first report."""

    run_id: str
    started_at: str
    done: int
    remaining: int
    rows_per_second: float | None
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Costs:
    """One row for each day and model, latest first, with their sums. A cost is None if the price is not known."""

    entries: Sequence[Mapping[str, Any]]
    tokens: int
    cost: float


def list_runs(database: Database, collection: str | None, limit: int) -> list[dict[str, Any]]:
    """Runs, latest first. Raises NotFound for a collection that is not tracked."""
    rows = database.call("list_embedding_runs", {"of_collection": collection, "max_rows": limit})
    return [
        {
            **row,
            "status": STATES.get(row["status"], row["status"]),
            "seconds": round(row["seconds"], 3),
            "cost": _cost(row),
        }
        for row in rows
    ]


def list_costs(database: Database, days: int) -> Costs:
    """Tokens and cost of the last days, including today (UTC)."""
    found = database.call_scalar("embedding_costs", {"days": days})["entries"]
    entries = [{**row, "cost": _cost(row)} for row in found]
    return Costs(
        entries,
        tokens=sum(entry["tokens"] for entry in entries),
        cost=round(sum(entry["cost"] or 0.0 for entry in entries), 6),
    )


def running_by_collection(database: Database, pending: Mapping[str, int]) -> dict[str, Running]:
    """Active runs by collection; `pending` is the number of pending rows of each collection."""
    running = {}
    for row in database.call("running_embedding_runs"):
        if row["collection"] is None:
            continue  # This is a run over all collections, and the run of each collection is listed too.
        rate = row["rows_per_second"]
        remaining = pending.get(row["collection"], 0)
        running[row["collection"]] = Running(
            run_id=row["run_id"],
            started_at=row["started_at"],
            done=row["done"],
            remaining=remaining,
            rows_per_second=round(rate, 2) if rate else None,
            seconds_left=round(remaining / rate, 1) if rate else None,
        )
    return running


def _cost(row: Mapping[str, Any]) -> float | None:
    """The recorded cost; None if the price of a paid model is not known."""
    cost = float(row["cost_usd"])
    if cost or not row["tokens"] or row["provider"] != "openai":
        return cost
    return cost if split_model_name(row["model"]).model in OPENAI_PRICES else None
