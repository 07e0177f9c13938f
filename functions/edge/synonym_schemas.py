"""What several functions say about synonyms, so that none of them imports another and all of its routes."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from functions.edge.schemas import SomeText
from shared.services.synonyms import SynonymHits
from shared.services.tasks import SYNONYMS_TASK_NAME

TagType = Literal["genre", "mood"]
Limit = Annotated[int, Field(ge=1, le=100)]
Question = Annotated[SomeText, Field(max_length=20_000, examples=["musique douce pour la plage"])]


class SynonymHit(BaseModel):
    """hybrid_score = 0.3 × fts_score + 0.7 × vector_score; a rank is null where that leg did not list the tag."""

    id: int
    tag_id: int
    tag_type: TagType
    tag_name: str
    synonyms: dict[str, Any]
    source: str
    confidence: float
    fts_score: float | None
    fts_rank: int | None
    vector_score: float | None
    vector_rank: int | None
    hybrid_score: float


class SynonymAnswer(BaseModel):
    """`cached`: the answer to the same question, since which nothing was written."""

    query: str
    results: list[SynonymHit]
    total: int
    degraded: bool
    cached: bool
    took_ms: float


class GenerationAccepted(BaseModel):
    """`task_id` is null where no tag needs synonyms."""

    task_name: str = Field(examples=[SYNONYMS_TASK_NAME])
    task_id: UUID | None
    status: Literal["queued", "skipped"]
    message: str


def synonym_answer(query: str, found: SynonymHits) -> SynonymAnswer:
    """The hits in the words of this API."""
    return SynonymAnswer(
        query=query,
        results=[SynonymHit(**hit) for hit in found.hits],
        total=len(found.hits),
        degraded=found.degraded,
        cached=found.cached,
        took_ms=found.took_ms,
    )


def accepted(task_id: str | None, requested: int) -> GenerationAccepted:
    """The answer to a request for synonyms."""
    return GenerationAccepted(
        task_name=SYNONYMS_TASK_NAME,
        task_id=UUID(task_id) if task_id else None,
        status="queued" if task_id else "skipped",
        message=f"{requested} tags queued; see GET /api/tasks/{task_id}" if task_id else "no tag needs synonyms",
    )
