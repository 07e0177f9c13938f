"""Parts of request and response bodies that several routes share."""

from typing import Annotated, Any, Literal

import orjson
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def check_text(text: str) -> str:
    """Return the text. Raises ValueError if the database or providers cannot accept it."""
    if "\0" in text:
        raise ValueError("a text must not contain NUL, which PostgreSQL cannot store")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text must not contain half of a surrogate pair, which UTF-8 cannot encode") from None
    return text


Text = Annotated[str, AfterValidator(check_text)]
SomeText = Annotated[Text, Field(min_length=1)]
CollectionName = Annotated[Text, Field(min_length=1, max_length=127, examples=["music_knowledge"])]


# The most fields of an object in a body. Pydantic creates an error for each unknown field, so the fields are counted
# before they are checked.
MAX_FIELDS = 64


class Body(BaseModel):
    """A request's body. Unknown fields are refused, because a misspelt field would have no effect."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, given: object) -> object:
        if isinstance(given, dict):
            for name, value in (("the object", given), *(given.items() if len(given) <= MAX_FIELDS else ())):
                if isinstance(value, dict) and len(value) > MAX_FIELDS:
                    raise ValueError(f"{name} has {len(value):,} fields; at most {MAX_FIELDS} are accepted")
        return given


class DatabaseWebhook(BaseModel):
    """What Supabase's database webhooks send. Only the key in `record` is read; the text comes from the table."""

    # Supabase may add fields.
    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    type: Literal["INSERT", "UPDATE", "DELETE"]
    table: Annotated[Text, Field(min_length=1, max_length=127, examples=["music_knowledge"])]
    # BaseModel has an attribute `schema` of its own.
    schema_name: Annotated[Text, Field(alias="schema", max_length=127, examples=["public"])] = "public"
    record: Annotated[dict[str, Any] | None, Field(examples=[{"id": "00000000-0000-4000-8000-000000000001"}])] = None
    old_record: dict[str, Any] | None = None


class ScoredHit(BaseModel):
    """A hit's score and its two parts. A rank is null if that ranking does not contain the row."""

    score: float
    full_text_score: float | None
    full_text_rank: int | None
    semantic_score: float | None
    semantic_rank: int | None


class JsonBytes(Response):
    """A JSON response, written by orjson: it writes numpy arrays directly, a vector of 384 floats in 20 µs."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
