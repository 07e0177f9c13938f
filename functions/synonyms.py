"""/api/synonyms: what people call a genre or a mood, read by everyone, written with the key."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from mangum import Mangum
from pydantic import BaseModel, Field, model_validator

from functions.edge.app import create_app
from functions.edge.auth import OPTIONAL_TOKEN, CallerOf, NeedsKey, ProcessOf
from functions.edge.schemas import Body, SomeText, Text
from functions.edge.synonym_schemas import (
    GenerationAccepted,
    Limit,
    Question,
    SynonymAnswer,
    TagType,
    accepted,
    synonym_answer,
)

router = APIRouter(prefix="/api/synonyms", tags=["synonyms"])

TagName = Annotated[SomeText, Field(max_length=100, examples=["bossa nova"])]
TagId = Annotated[int, Field(ge=1, le=2**63 - 1)]
Term = Annotated[SomeText, Field(max_length=100)]
Confidence = Annotated[float, Field(ge=0, le=1)]
SynonymsId = Annotated[int, Path(ge=1, le=2**63 - 1)]


class Translations(Body):
    fr: Annotated[list[Term], Field(max_length=50)] = Field(default_factory=list, examples=[["bossa", "samba douce"]])
    en: Annotated[list[Term], Field(max_length=50)] = Field(default_factory=list, examples=[["brazilian jazz"]])


class SynonymSet(Body):
    """The words for a tag. Of each list, no term twice, whatever its case."""

    search_terms: Annotated[list[Term], Field(min_length=1, max_length=50, examples=[["bossa nova", "brazilian jazz"]])]
    related_tags: Annotated[list[Term], Field(max_length=50)] = Field(default_factory=list, examples=[["samba"]])
    usage_context: Annotated[Text, Field(max_length=2000)] = ""
    translations: Translations = Field(default_factory=Translations)


class NewSynonyms(Body):
    """Synonyms for the tag of that id or that name."""

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
    """What is left out stays. With `updated_at`, as it was read, nobody else's change is overwritten: 409 instead."""

    synonyms: SynonymSet | None = None
    confidence: Confidence | None = None
    is_active: bool | None = None
    updated_at: datetime | None = None


class StoredSynonyms(BaseModel):
    id: int
    tag_id: int
    tag_type: TagType
    tag_name: str
    synonyms: dict[str, Any]
    source: str = Field(examples=["manual"])
    confidence: float
    is_active: bool = True
    renamed_from: str | None = Field(None, description="The name they were made for, where the tag has another since.")
    updated_at: datetime


class GenerateRequest(Body):
    """Without a tag_type both, without tag_ids all. `force` replaces synonyms that are there, also those by hand."""

    tag_type: TagType | None = None
    tag_ids: Annotated[list[TagId], Field(min_length=1, max_length=1000)] | None = None
    force: bool = False

    @model_validator(mode="after")
    def _says_of_which_type(self) -> "GenerateRequest":
        if self.tag_ids is not None and self.tag_type is None:
            raise ValueError("tag_ids need the tag_type they are of")
        return self


class TagFailure(BaseModel):
    tag_type: TagType
    tag_id: int
    tag_name: str
    attempts: int
    failed_at: datetime
    error: str | None


class TagCoverage(BaseModel):
    """`without`: tags that have no synonyms for their present name; of those, `waiting` and `failed` were asked for."""

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


@router.get("/search", openapi_extra=OPTIONAL_TOKEN)
def search_synonyms(
    process: ProcessOf,
    caller: CallerOf,
    q: Annotated[Question, Query()],
    tag_type: TagType | None = None,
    limit: Annotated[Limit, Query()] = 10,
) -> SynonymAnswer:
    """Tags by what people call them, in English or French."""
    return synonym_answer(q, process.synonyms.search(q, tag_type=tag_type, limit=limit, caller=caller))


@router.post("/generate", status_code=202, dependencies=[NeedsKey])
def generate_synonyms(process: ProcessOf, body: GenerateRequest | None = None) -> GenerationAccepted:
    """Have synonyms written for every tag that has none, in the background; parked tags are tried again."""
    wanted = body or GenerateRequest()
    return accepted(*process.synonym_tasks.start(wanted.tag_type, wanted.tag_ids, force=wanted.force))


@router.get("/generation", dependencies=[NeedsKey])
def generation_state(process: ProcessOf) -> GenerationState:
    """How many tags have synonyms, which wait, and which were given up, with the reason."""
    store = process.synonym_store
    return GenerationState(
        generator=process.synonym_tasks.has_generator,
        coverage=[TagCoverage(**row) for row in store.synonym_coverage()],
        failures=[TagFailure(**row) for row in store.list_failed_synonyms()],
    )


@router.post("", status_code=201, dependencies=[NeedsKey])
def create_synonyms(body: NewSynonyms, process: ProcessOf) -> StoredSynonyms:
    """Write a tag's synonyms. Deactivated ones are replaced and revived; for active ones the answer is 409."""
    row = process.synonyms.create(
        body.tag_type,
        body.synonyms.model_dump(),
        tag_id=body.tag_id,
        tag_name=body.tag_name,
        confidence=body.confidence,
    )
    return StoredSynonyms(**row)


@router.put("/{synonyms_id}", dependencies=[NeedsKey])
def update_synonyms(synonyms_id: SynonymsId, body: ChangedSynonyms, process: ProcessOf) -> StoredSynonyms:
    """Change synonyms; `is_active: true` brings deactivated ones back."""
    row = process.synonyms.update(
        synonyms_id,
        synonyms=body.synonyms.model_dump() if body.synonyms else None,
        confidence=body.confidence,
        is_active=body.is_active,
        expected_updated_at=body.updated_at.isoformat() if body.updated_at else None,
    )
    return StoredSynonyms(**row)


@router.delete("/{synonyms_id}", dependencies=[NeedsKey])
def deactivate_synonyms(synonyms_id: SynonymsId, process: ProcessOf) -> StoredSynonyms:
    """Switch synonyms off: no search finds them any more. They are kept, and can be brought back."""
    return StoredSynonyms(**process.synonyms.deactivate(synonyms_id))


# Last, for it takes whatever follows: a name may hold a slash.
@router.get("/{tag_type}/{tag_name:path}", openapi_extra=OPTIONAL_TOKEN)
def get_synonyms(tag_type: TagType, tag_name: TagName, process: ProcessOf, caller: CallerOf) -> StoredSynonyms:
    """The synonyms of a tag, by its name in any spelling ("hip hop" for "Hip-Hop")."""
    return StoredSynonyms(**process.synonyms.get(tag_type, tag_name, caller))


app = create_app("synonyms", router)
handler = Mangum(app, lifespan="off")
