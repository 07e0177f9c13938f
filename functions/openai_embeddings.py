"""POST /v1/embeddings and GET /v1/models: OpenAI's API, so that clients of OpenAI can use this server."""

import base64
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from functions.http.answer_limit import LAMBDA_EVENT, check_answer_fits
from functions.http.app import create_function
from functions.http.auth import NeedsKey, ServicesOf
from functions.http.deadlines import DeadlineOf, wait_for
from functions.http.routes import Route, takes_large_body
from functions.http.schemas import JsonBytes, Text, check_text
from functions.http.served_model import served_model
from functions.http.token_arrays import decode_tokens
from shared.errors import InvalidRequest, NotFound, ProviderInputTooLong
from shared.logs import request_id
from shared.models import EmbeddingModel, Vectors

router = APIRouter(tags=["embedding"], dependencies=[NeedsKey], route_class=Route)

MAX_INPUTS = 2048
# This header counts the texts that were cut because they were longer than the model reads.
TRUNCATED = "X-Truncated-Inputs"


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


class ContextLengthExceeded(InvalidRequest):
    """A text is longer than the model reads, and may not be cut."""

    code = "context_length_exceeded"


Inputs = list[str] | list[list[int]]


def _check_input(given: object) -> Inputs:
    """Check `input` and return it as a list. Pydantic's own check of the union would report one error for each member."""
    inputs: list[Any] = given if isinstance(given, list) else [given]
    if inputs and all(type(token) is int for token in inputs):
        inputs = [inputs]
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise ValueError(f"a list must hold between 1 and {MAX_INPUTS} texts")
    if not all(inputs):
        raise ValueError("a text must not be empty")
    if all(isinstance(text, str) for text in inputs):
        for text in inputs:
            check_text(text)
    elif not all(isinstance(text, list) and all(type(token) is int for token in text) for text in inputs):
        raise ValueError("it must be a text, a list of texts, an array of token ids, or a list of such arrays")
    return inputs


def _input_schema() -> dict[str, Any]:
    text = {"type": "string", "minLength": 1}
    tokens = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
    many = [{"type": "array", "items": one, "minItems": 1, "maxItems": MAX_INPUTS} for one in (text, tokens)]
    return {"anyOf": [text, tokens, *many], "examples": ["How loud should a master be?"]}


class EmbeddingsRequest(BaseModel):
    """A request in OpenAI's format. Fields that have no effect here, such as `user`, are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: Annotated[Text, Field(min_length=1, max_length=255, examples=["all-MiniLM-L6-v2"])]
    input: Annotated[Inputs, PlainValidator(_check_input), WithJsonSchema(_input_schema())]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate: Annotated[
        bool | None,
        Field(
            description=f"false: refuse a text longer than the model reads. Else cut it and count it in {TRUNCATED}."
        ),
    ] = None


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


class Model(BaseModel):
    id: str = Field(examples=["all-MiniLM-L6-v2"])
    object: Literal["model"]
    created: int
    owned_by: str = Field(examples=["onnx"])


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": OpenAIErrorAnswer}, "5XX": {"model": OpenAIErrorAnswer}}

HEADERS = {TRUNCATED: {"schema": {"type": "integer"}, "description": "How many texts were cut."}}


@router.post("/v1/embeddings/", include_in_schema=False)
@router.post("/v1/embeddings", response_model=EmbeddingsAnswer, responses={200: {"headers": HEADERS}, **ERRORS})
@takes_large_body
async def create_embeddings(
    body: EmbeddingsRequest, services: ServicesOf, deadline: DeadlineOf, request: Request
) -> JsonBytes:
    """Embed up to 2,048 texts as documents. With tiktoken on the server, arrays of token ids are accepted, too."""
    spec = await served_model(services, deadline)
    if not _is_named(body.model, spec.name):
        raise _not_served(body.model, spec.name)
    shortened = body.dimensions not in (None, spec.dimensions)
    if shortened and not (services.provider.shortens_vectors and (body.dimensions or 0) < spec.dimensions):
        raise InvalidRequest(f"dimensions: {spec.name} has {spec.dimensions} here, not {body.dimensions}")
    if LAMBDA_EVENT in request.scope:
        dimensions = body.dimensions or spec.dimensions
        check_answer_fits("input", len(body.input), dimensions, base64=body.encoding_format == "base64")
    texts = await decode_tokens(body.input)
    truncate = body.truncate is not False
    try:
        batch_id = request_id.get() or ""
        submitted = services.embedding.submit(texts, "document", batch_id, deadline, truncate=truncate)
        answer = await wait_for(submitted, deadline)
    except ProviderInputTooLong as error:
        limit = f"This model's maximum context length is {spec.max_tokens} tokens. " if spec.max_tokens else ""
        raise ContextLengthExceeded(f"input: {limit}{error.message}") from error
    vectors = _shortened(answer.vectors, body.dimensions) if shortened else answer.vectors
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(row, body.encoding_format)}
        for index, row in enumerate(vectors)
    ]
    usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
    content = {"object": "list", "data": data, "model": spec.name, "usage": usage}
    return JsonBytes(content, headers={TRUNCATED: str(answer.truncated)})


@router.get("/v1/models/", include_in_schema=False)
@router.get("/v1/models", response_model=ModelList, responses=ERRORS)
async def list_models(services: ServicesOf, deadline: DeadlineOf) -> JsonBytes:
    """List the one model that is served."""
    return JsonBytes({"object": "list", "data": [_model(await served_model(services, deadline))]})


@router.get("/v1/models/{model:path}", response_model=Model, responses=ERRORS)
async def retrieve_model(model: str, services: ServicesOf, deadline: DeadlineOf) -> JsonBytes:
    """Describe the model, if it is the one that is served."""
    spec = await served_model(services, deadline)
    if not _is_named(model.removesuffix("/"), spec.name):
        raise _not_served(model, spec.name)
    return JsonBytes(_model(spec))


def _model(spec: EmbeddingModel) -> dict[str, object]:
    # 0: the time when the model was made is unknown here.
    return {"id": spec.name, "object": "model", "created": 0, "owned_by": spec.provider}


def _is_named(given: str, model: str) -> bool:
    return given.rpartition("/")[2].lower() == model.rpartition("/")[2].lower()


def _not_served(given: str, model: str) -> ModelNotFound:
    # The client asked for another model, and vectors of different models must not be compared.
    return ModelNotFound(f"model: {given[:255]!r} is not served here, {model!r} is")


def _shortened(vectors: Vectors, width: int | None) -> Vectors:
    import numpy as np

    first = vectors[:, :width]
    shorter: Vectors = first / np.linalg.norm(first, axis=1, keepdims=True)
    return shorter


def _encoded(row: Any, encoding_format: str | None) -> Any:
    # Little-endian float32, the encoding that OpenAI uses.
    return base64.b64encode(row.astype("<f4").tobytes()).decode() if encoding_format == "base64" else row


app, handler = create_function("openai_embeddings", router)
