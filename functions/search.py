"""/api/search/{collection}: rows by word and by meaning, as the caller may see them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from mangum import Mangum
from pydantic import BaseModel, ConfigDict, Field

from functions.edge.app import create_app
from functions.edge.auth import OPTIONAL_TOKEN, CallerOf, ProcessOf
from functions.edge.schemas import Body, SomeText, Text
from shared.models import SearchResult

router = APIRouter(tags=["search"])

Collection = Annotated[Text, Path(max_length=127, examples=["music_knowledge"])]
Question = Annotated[SomeText, Field(max_length=20_000, examples=["how loud should a finished song be"])]
MatchCount = Annotated[int, Field(ge=1, le=200)]
OPTIONS = ("static_weight", "decay_weight", "half_life_days")
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
    # Of datasets alone: score = hybrid + static_weight × static_score + decay_weight × 2^(-age / half_life_days).
    static_weight: Weight | None = None
    decay_weight: Weight | None = None
    half_life_days: Annotated[float, Field(gt=0, le=1_000_000)] | None = None


class SearchHit(BaseModel):
    """A row's own columns, and every part of its score; a rank is null where that leg did not list the row."""

    model_config = ConfigDict(extra="allow")

    id: str
    score: float
    full_text_score: float | None
    full_text_rank: int | None
    semantic_score: float | None
    semantic_rank: int | None


class SearchAnswer(BaseModel):
    """`degraded`: no vector could be made of the query, so only its words were searched."""

    hits: list[SearchHit]
    degraded: bool
    took_ms: float


@router.post("/api/search/{collection}", openapi_extra=OPTIONAL_TOKEN)
def search(collection: Collection, body: SearchRequest, process: ProcessOf, caller: CallerOf) -> SearchAnswer:
    """Search as the caller: a Supabase user's token or the anon key in Authorization, none is anon."""
    result = process.search.search(
        collection,
        body.query,
        match_count=body.match_count,
        filters=body.filter,
        full_text_weight=body.full_text_weight,
        semantic_weight=body.semantic_weight,
        fusion=body.fusion,
        options={name: value for name in OPTIONS if (value := getattr(body, name)) is not None},
        caller=caller,
    )
    return _answer(result)


@router.get("/api/search/{collection}", openapi_extra=OPTIONAL_TOKEN)
def search_by_url(
    collection: Collection,
    process: ProcessOf,
    caller: CallerOf,
    q: Annotated[Question, Query()],
    limit: Annotated[MatchCount, Query()] = 10,
) -> SearchAnswer:
    """The same with everything at its default: a link that can be shared."""
    return _answer(process.search.search(collection, q, match_count=limit, caller=caller))


def _answer(result: SearchResult) -> SearchAnswer:
    hits: list[Any] = [
        SearchHit(
            id=hit.id,
            score=hit.score,
            full_text_score=hit.full_text_score,
            full_text_rank=hit.full_text_rank,
            semantic_score=hit.semantic_score,
            semantic_rank=hit.semantic_rank,
            **hit.row,
        )
        for hit in result.hits
    ]
    return SearchAnswer(hits=hits, degraded=result.degraded, took_ms=result.took_ms)


app = create_app("search", router)
handler = Mangum(app, lifespan="off")
