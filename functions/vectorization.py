"""/api/vectorization: embeds one text, and describes the provider and its model."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from functions.http.app import create_function
from functions.http.auth import NeedsKey, ServicesOf
from functions.http.deadlines import DeadlineOf, wait_for
from functions.http.routes import Route, takes_large_body
from functions.http.schemas import Body, JsonBytes, SomeText
from shared.logs import request_id
from shared.models import InputKind

router = APIRouter(prefix="/api/vectorization", tags=["embedding"], dependencies=[NeedsKey], route_class=Route)


class TextToEmbed(Body):
    text: Annotated[SomeText, Field(examples=["how loud should a master be"])]
    input_type: InputKind = "document"


class TextVector(BaseModel):
    embedding: list[float] = Field(examples=[[0.0123, -0.0456]])
    model: str = Field(examples=["all-MiniLM-L6-v2"])
    dimensions: int = Field(examples=[384])


class VectorizationStatus(BaseModel):
    """`waiting` is the number of texts of accepted requests that are not yet embedded."""

    status: str = Field(examples=["ok"])
    provider: str = Field(examples=["onnx"])
    model: str = Field(examples=["all-MiniLM-L6-v2"])
    dimensions: int = Field(examples=[384])
    model_loaded: bool
    waiting: int


@router.post("/embed", response_model=TextVector)
@takes_large_body
async def embed_text(body: TextToEmbed, services: ServicesOf, deadline: DeadlineOf) -> JsonBytes:
    """Embed one text. Set `input_type` to `query` for a search query."""
    service = services.embedding
    answer = await wait_for(service.submit([body.text], body.input_type, request_id.get() or "", deadline), deadline)
    return JsonBytes(
        {"embedding": answer.vectors[0], "model": service.provider.model, "dimensions": answer.vectors.shape[1]}
    )


@router.get("/status")
def vectorization_status(services: ServicesOf, deadline: DeadlineOf) -> VectorizationStatus:
    """Return the provider, its model and the number of dimensions. Loads the model if it is not loaded."""
    spec = services.embedding.spec(deadline)
    return VectorizationStatus(
        status="ok",
        provider=spec.provider,
        model=spec.name,
        dimensions=spec.dimensions,
        model_loaded=True,
        waiting=services.embedding.waiting,
    )


app, handler = create_function("vectorization", router)
