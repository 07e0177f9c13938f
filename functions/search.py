"""/api/search/{collection}: hybrid search of one collection with the rights of the caller."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from functions.http.app import create_function
from functions.http.auth import OPTIONAL_TOKEN, CallerOf, ServicesOf
from functions.http.routes import Route
from functions.http.schemas import Body, CollectionName, ScoredHit, SomeText, Text
from shared.models import SearchResult
from shared.search.filters import COMMON_OPTIONS, OPTIONS

router = APIRouter(tags=["search"], route_class=Route)

Question = Annotated[SomeText, Field(max_length=20_000, examples=["how loud should a finished song be"])]
MatchCount = Annotated[int, Field(ge=1, le=200)]
# The options of all collections: the common ones, and those that only the collection `datasets` has.
_OPTIONS = {*COMMON_OPTIONS, *(name for names in OPTIONS.values() for name in names)}
Weight = Annotated[float, Field(ge=0, le=1000)]


class SearchRequest(Body):
    """`filter` is {column: value}; the score is full_text_weight × full_text_score + semantic_weight × semantic_score."""

    query: Question
    match_count: MatchCount = 10
    filter: Annotated[dict[Text, Text], Field(max_length=8, examples=[{"category": "mixing"}])] = Field(
        default_factory=dict
    )
    full_text_weight: Weight | None = Field(None, examples=[0.3])
    semantic_weight: Weight | None = Field(None, examples=[0.7])
    fusion: Literal["weighted", "rrf"] | None = None
    # For the collection `datasets`: score = hybrid_score (the sum in the docstring) + static_weight × static_score
    # + decay_weight × 2^(-days since published_at / half_life_days).
    static_weight: Weight | None = None
    decay_weight: Weight | None = None
    half_life_days: Annotated[float, Field(gt=0, le=1_000_000)] | None = None


class SearchHit(ScoredHit):
    """A row's columns and its score."""

    model_config = ConfigDict(extra="allow")

    id: str


class SearchAnswer(BaseModel):
    """`degraded` is true if the query could not be embedded, so that the hits are from full-text search alone."""

    hits: list[SearchHit]
    degraded: bool
    took_ms: float


@router.post("/api/search/{collection}", openapi_extra=OPTIONAL_TOKEN)
def search(collection: CollectionName, body: SearchRequest, services: ServicesOf, caller: CallerOf) -> SearchAnswer:
    """Search with the rights of the bearer token (a Supabase user's token or the anon key), or else as anon."""
    result = services.search.search(
        collection,
        body.query,
        match_count=body.match_count,
        filters=body.filter,
        options=body.model_dump(include=_OPTIONS, exclude_none=True),
        caller=caller,
    )
    return _answer(result)


@router.get("/api/search/{collection}", openapi_extra=OPTIONAL_TOKEN)
def search_by_url(
    collection: CollectionName,
    services: ServicesOf,
    caller: CallerOf,
    q: Annotated[Question, Query()],
    limit: Annotated[MatchCount, Query()] = 10,
) -> SearchAnswer:
    """Like POST, but as a link that can be shared: it takes only the query and `limit`."""
    return _answer(services.search.search(collection, q, match_count=limit, caller=caller))


def _answer(result: SearchResult) -> SearchAnswer:
    hits = [SearchHit(**hit.row) for hit in result.hits]
    return SearchAnswer(hits=hits, degraded=result.degraded, took_ms=result.took_ms)


app, handler = create_function("search", router)
