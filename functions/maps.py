"""GET /api/collections/{collection}/map: the vectors of a collection in two dimensions."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from functions.http.app import create_function
from functions.http.auth import NeedsKey, ServicesOf
from functions.http.routes import CompressedRoute
from functions.http.schemas import CollectionName, JsonBytes, Text

router = APIRouter(tags=["collections"], dependencies=[NeedsKey], route_class=CompressedRoute)

Column = Annotated[Text, Query(min_length=1, max_length=63, examples=["category"])]


class MapPoint(BaseModel):
    """A row: x and y are in [-1, 1]; label and category are cut at 120 characters."""

    id: str
    x: float
    y: float
    label: str | None
    category: str | None


class CollectionMap(BaseModel):
    """A map of the vectors of the most used model: it shows `sampled` of the `total` vectors.

    `explained` is each axis' share of the variance.
    """

    collection: str
    model: str | None = Field(examples=["all-MiniLM-L6-v2"])
    total: int
    sampled: int
    explained: tuple[float, float] = Field(examples=[[0.12, 0.07]])
    category: str | None
    computed_at: datetime
    points: list[MapPoint]


@router.get("/api/collections/{collection}/map", response_model=CollectionMap)
def collection_map(
    collection: CollectionName,
    services: ServicesOf,
    limit: Annotated[int, Query(ge=1, le=2000)] = 2000,
    category: Column | None = None,
    refresh: bool = False,
) -> JsonBytes:
    """Project a sample of the vectors to two dimensions. The map is cached for ten minutes or until rows change."""
    return JsonBytes(services.maps.get(collection, limit=limit, category=category, refresh=refresh))


app, handler = create_function("maps", router)
