"""/api/synonyms and /api/mir/synonyms: search, read, write and generate synonyms of genre and mood tags.

Reading needs no key, writing does.
"""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field, model_validator

from functions.http.app import create_function
from functions.http.auth import OPTIONAL_TOKEN, CallerOf, NeedsKey, ServicesOf
from functions.http.routes import Route, takes_large_body
from functions.http.schemas import Body, ScoredHit, SomeText, Text
from functions.http.synonym_schemas import GenerationAccepted, accepted
from shared.synonyms.service import SynonymHits
from shared.synonyms.store import TagType

router = APIRouter(tags=["synonyms"], route_class=Route)

Limit = Annotated[int, Field(ge=1, le=100)]
Question = Annotated[SomeText, Field(max_length=20_000, examples=["musique douce pour la plage"])]
TagName = Annotated[SomeText, Field(max_length=100, examples=["bossa nova"])]
TagId = Annotated[int, Field(ge=1, le=2**63 - 1)]
Term = Annotated[SomeText, Field(max_length=100)]
Confidence = Annotated[float, Field(ge=0, le=1)]
SynonymsId = Annotated[int, Path(ge=1, le=2**63 - 1)]


class Translations(Body):
    fr: Annotated[list[Term], Field(max_length=50)] = Field(default_factory=list, examples=[["bossa", "samba douce"]])
    en: Annotated[list[Term], Field(max_length=50)] = Field(default_factory=list, examples=[["brazilian jazz"]])


class SynonymSet(Body):
    """The synonyms of a tag. Each list contains a term only once; case is ignored."""

    search_terms: Annotated[list[Term], Field(min_length=1, max_length=50, examples=[["bossa nova", "brazilian jazz"]])]
    related_tags: Annotated[list[Term], Field(max_length=50)] = Field(default_factory=list, examples=[["samba"]])
    usage_context: Annotated[Text, Field(max_length=2000)] = ""
    translations: Translations = Field(default_factory=Translations)


class NewSynonyms(Body):
    """Synonyms for one tag, given by its id or by its name."""

    tag_type: TagType
    tag_id: TagId | None = None
    tag_name: TagName | None = None
    synonyms: SynonymSet
    confidence: Confidence = 1.0

    @model_validator(mode="after")
    def _names_a_tag(self) -> "NewSynonyms":
        if (self.tag_id is None) == (self.tag_name is None):
            raise ValueError("give either tag_id or tag_name")
        return self


class ChangedSynonyms(Body):
    """Fields that are left out keep their values. With `updated_at`: 409 if the synonyms have changed since."""

    synonyms: SynonymSet | None = None
    confidence: Confidence | None = None
    is_active: bool | None = None
    updated_at: datetime | None = None


class SynonymSearch(Body):
    query: Question
    tag_type: TagType | None = None
    limit: Limit = 10


class TagSynonyms(BaseModel):
    """Synonyms and their tag."""

    id: int
    tag_id: int
    tag_type: TagType
    tag_name: str
    synonyms: dict[str, Any]
    source: str = Field(examples=["manual"])
    confidence: float


class SynonymHit(TagSynonyms, ScoredHit):
    """score = 0.3 × full_text_score + 0.7 × semantic_score.

    `fts_*`, `vector_*` and `hybrid_score` repeat the scores under the names that older clients read.
    """

    fts_score: float | None = Field(validation_alias="full_text_score")
    fts_rank: int | None = Field(validation_alias="full_text_rank")
    vector_score: float | None = Field(validation_alias="semantic_score")
    vector_rank: int | None = Field(validation_alias="semantic_rank")
    hybrid_score: float = Field(validation_alias="score")


class SynonymAnswer(BaseModel):
    """`cached`: answered from the cache; tags and synonyms have not changed since."""

    query: str
    results: list[SynonymHit]
    total: int
    degraded: bool
    cached: bool
    took_ms: float


class StoredSynonyms(TagSynonyms):
    is_active: bool = True
    renamed_from: str | None = Field(
        None, description="The tag's former name, for which the synonyms were made, if it was renamed."
    )
    updated_at: datetime


class GenerateRequest(Body):
    """The default is all tags of both types. `force` also replaces existing synonyms, even those written by hand."""

    tag_type: TagType | None = None
    tag_ids: Annotated[list[TagId], Field(min_length=1, max_length=1000)] | None = None
    force: bool = False

    @model_validator(mode="after")
    def _has_a_type(self) -> "GenerateRequest":
        if self.tag_ids is not None and self.tag_type is None:
            raise ValueError("tag_ids: give their tag_type too")
        return self


class TagFailure(BaseModel):
    tag_type: TagType
    tag_id: int
    tag_name: str
    attempts: int
    failed_at: datetime
    error: str | None


class TagCoverage(BaseModel):
    """`without`: tags that have no synonyms for their current name. The queue contains `waiting` and `failed` tags."""

    tag_type: TagType
    tags: int
    active: int
    without: int
    waiting: int
    failed: int


class GenerationState(BaseModel):
    generator: bool
    coverage: list[TagCoverage]
    failures: list[TagFailure]


@router.get("/api/synonyms/search", openapi_extra=OPTIONAL_TOKEN)
def search_synonyms(
    services: ServicesOf,
    caller: CallerOf,
    q: Annotated[Question, Query()],
    tag_type: TagType | None = None,
    limit: Annotated[Limit, Query()] = 10,
) -> SynonymAnswer:
    """Find tags by the words that people use for them, in English or French."""
    return _answer(q, services.synonyms.search(q, tag_type=tag_type, limit=limit, caller=caller))


@router.post("/api/mir/synonyms/search", openapi_extra=OPTIONAL_TOKEN)
def search_mir_synonyms(body: SynonymSearch, services: ServicesOf, caller: CallerOf) -> SynonymAnswer:
    """Like GET /api/synonyms/search, with the parameters in the body."""
    found = services.synonyms.search(body.query, tag_type=body.tag_type, limit=body.limit, caller=caller)
    return _answer(body.query, found)


def _answer(query: str, found: SynonymHits) -> SynonymAnswer:
    return SynonymAnswer(
        query=query,
        results=[SynonymHit(**hit) for hit in found.hits],
        total=len(found.hits),
        degraded=found.degraded,
        cached=found.cached,
        took_ms=found.took_ms,
    )


@router.post("/api/synonyms/generate", status_code=202, dependencies=[NeedsKey])
def generate_synonyms(services: ServicesOf, body: GenerateRequest | None = None) -> GenerationAccepted:
    """Generate synonyms in the background for the requested tags that have none (with `force`, for all of them)."""
    wanted = body or GenerateRequest()
    return accepted(*services.synonym_requests.start(wanted.tag_type, wanted.tag_ids, force=wanted.force))


@router.get("/api/synonyms/generation", dependencies=[NeedsKey])
def generation_state(services: ServicesOf) -> GenerationState:
    """How many tags have synonyms, how many wait, and which failed, with the reason."""
    store = services.synonym_store
    return GenerationState(
        generator=services.synonym_requests.has_generator,
        coverage=[TagCoverage(**row) for row in store.synonym_coverage()],
        failures=[TagFailure(**row) for row in store.list_failed_synonyms()],
    )


@router.post("/api/synonyms", status_code=201, dependencies=[NeedsKey])
@takes_large_body
def create_synonyms(body: NewSynonyms, services: ServicesOf) -> StoredSynonyms:
    """Write a tag's synonyms. Inactive synonyms are replaced and activated; for a tag with active ones, answer 409."""
    row = services.synonym_store.create_synonyms(**body.model_dump())
    return StoredSynonyms(**services.synonyms.embed(row))


@router.put("/api/synonyms/{synonyms_id}", dependencies=[NeedsKey])
@takes_large_body
def update_synonyms(synonyms_id: SynonymsId, body: ChangedSynonyms, services: ServicesOf) -> StoredSynonyms:
    """Change synonyms; `is_active: true` activates them again."""
    changes = body.model_dump(exclude={"updated_at"})
    seen = body.updated_at.isoformat() if body.updated_at else None
    row = services.synonym_store.update_synonyms(synonyms_id, **changes, expected_updated_at=seen)
    return StoredSynonyms(**services.synonyms.embed(row))


@router.delete("/api/synonyms/{synonyms_id}", dependencies=[NeedsKey])
def deactivate_synonyms(synonyms_id: SynonymsId, services: ServicesOf) -> StoredSynonyms:
    """Deactivate synonyms: searches no longer find them. They are kept and can be activated again."""
    return StoredSynonyms(**services.synonym_store.update_synonyms(synonyms_id, is_active=False))


# Declared last: a tag name may contain a slash, so this route matches every path, and would hide routes declared after it.
@router.get("/api/synonyms/{tag_type}/{tag_name:path}", openapi_extra=OPTIONAL_TOKEN)
def get_synonyms(tag_type: TagType, tag_name: TagName, services: ServicesOf, caller: CallerOf) -> StoredSynonyms:
    """The synonyms of a tag, by its name in any spelling ("hip hop" for "Hip-Hop")."""
    return StoredSynonyms(**services.synonyms.get(tag_type, tag_name, caller))


app, handler = create_function("synonyms", router)
