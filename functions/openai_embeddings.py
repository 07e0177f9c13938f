"""POST /v1/embeddings: embeds texts in the format of OpenAI's API, so that clients of OpenAI can use this server."""

import asyncio
import base64
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from functions.http.app import create_function
from functions.http.auth import NeedsKey, ServicesOf
from functions.http.deadlines import DeadlineOf, wait_for
from functions.http.schemas import JsonBytes, Text, check_text
from shared.errors import InvalidRequest, NotFound
from shared.logs import request_id

router = APIRouter(tags=["embedding"], dependencies=[NeedsKey])

MAX_INPUTS = 2048


class OpenAIError(BaseModel):
    message: str
    type: str = Field(examples=["invalid_request_error"])
    param: str | None
    code: str | None


class OpenAIErrorAnswer(BaseModel):
    """OpenAI's error shape."""

    error: OpenAIError


class ModelNotFound(NotFound):
    """The model is not the one that is served."""

    code = "model_not_found"


def _check_input(given: object) -> object:
    """Report one reason; Pydantic's union would report one for each of its members."""
    texts: list[Any] = given if isinstance(given, list) else [given]
    if any(isinstance(text, int | list) for text in texts):
        raise ValueError("arrays of tokens are not supported, send texts")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("it must be a text or a list of texts")
    if not 1 <= len(texts) <= MAX_INPUTS:
        raise ValueError(f"a list must hold between 1 and {MAX_INPUTS} texts")
    if not all(texts):
        raise ValueError("a text must not be empty")
    for text in texts:
        check_text(text)
    return given


# Its text is checked in _check_input, once.
_Input = Annotated[str, Field(min_length=1)]


class EmbeddingsRequest(BaseModel):
    """As OpenAI's; fields that mean nothing here (`user`) are ignored, as its own server does."""

    model_config = ConfigDict(extra="ignore")

    model: Annotated[Text, Field(min_length=1, max_length=255, examples=["all-MiniLM-L6-v2"])]
    input: Annotated[
        _Input | Annotated[list[_Input], Field(min_length=1, max_length=MAX_INPUTS)],
        BeforeValidator(_check_input),
        Field(examples=["How loud should a master be?"]),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None


class EmbeddingObject(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: Usage


@router.post(
    "/v1/embeddings",
    response_model=EmbeddingsAnswer,
    responses={"4XX": {"model": OpenAIErrorAnswer}, "5XX": {"model": OpenAIErrorAnswer}},
)
async def create_embeddings(body: EmbeddingsRequest, services: ServicesOf, deadline: DeadlineOf) -> JsonBytes:
    """Embed one text or up to 2,048, as documents."""
    service = services.embedding
    texts = [body.input] if isinstance(body.input, str) else body.input
    # In a thread the first time, because this may create the provider or ask it for the width of its vectors.
    spec = service.known_spec
    if spec is None:
        spec = await asyncio.to_thread(service.spec, deadline)
    _check_model(body, spec.name, spec.dimensions)
    answer = await wait_for(service.submit(texts, "document", request_id.get() or "", deadline), deadline)
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(row, body.encoding_format)}
        for index, row in enumerate(answer.vectors)
    ]
    usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
    return JsonBytes({"object": "list", "data": data, "model": spec.name, "usage": usage})


def _check_model(body: EmbeddingsRequest, model: str, dimensions: int) -> None:
    # The client asked for another model, and vectors of different models must not be compared.
    if body.model.rpartition("/")[2].lower() != model.rpartition("/")[2].lower():
        raise ModelNotFound(f"model: {body.model!r} is not served here, {model!r} is")
    if body.dimensions not in (None, dimensions):
        raise InvalidRequest(f"dimensions: {model} has {dimensions} here, not {body.dimensions}")


def _encoded(row: Any, encoding_format: str) -> Any:
    # Little-endian float32, as OpenAI's.
    return row if encoding_format == "float" else base64.b64encode(row.astype("<f4").tobytes()).decode()


app, handler = create_function("openai_embeddings", router)
