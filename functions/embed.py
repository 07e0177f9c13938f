"""POST /embed: embeds chunks of text, and stores them on request."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, model_validator

from functions.http.answer_limit import LAMBDA_EVENT, check_answer_fits, escaped_size, may_be_too_large
from functions.http.app import create_function
from functions.http.auth import NeedsKey, ServicesOf
from functions.http.deadlines import DeadlineOf, wait_for
from functions.http.routes import Route, takes_large_body
from functions.http.schemas import Body, JsonBytes, SomeText, Text
from functions.http.served_model import served_model
from shared.embedding.code_chunks import CodeChunk, check_chunks_can_be_stored, store_chunks
from shared.models import InputKind

router = APIRouter(tags=["embedding"], dependencies=[NeedsKey], route_class=Route)

MAX_CHUNKS = 256


class Chunk(Body):
    chunk_id: Annotated[Text, Field(max_length=512, examples=["c1"])]
    content: Annotated[SomeText, Field(examples=["A compressor turns the loud parts down."])]
    # `path` and `language` are stored with the chunk; they have no other effect.
    path: Annotated[Text, Field(max_length=1024, examples=["src/mix.py"])] = ""
    language: Annotated[Text, Field(max_length=64, examples=["python"])] | None = None


class EmbedRequest(Body):
    batch_id: Annotated[Text, Field(max_length=512, examples=["b-2026-11-21"])]
    chunks: list[Chunk] = Field(min_length=1, max_length=MAX_CHUNKS)
    input_type: InputKind = "document"
    store: Annotated[bool, Field(description="Keep the chunks with their vectors, under their chunk_id.")] = False
    collection: Literal["code_chunks"] = "code_chunks"

    @model_validator(mode="after")
    def _stores_documents(self) -> "EmbedRequest":
        if self.store and self.input_type != "document":
            raise ValueError("only documents can be stored, not queries")
        return self


class ChunkVector(BaseModel):
    chunk_id: str
    vector: list[float] = Field(examples=[[0.0123, -0.0456]])


class EmbedAnswer(BaseModel):
    """A vector of unit length for each chunk, in the order of the chunks."""

    batch_id: str
    vectors: list[ChunkVector]
    stored: int | None = Field(None, description="With `store`: how many chunks were new or changed.")


@router.post("/embed", response_model=EmbedAnswer)
@takes_large_body
async def embed(body: EmbedRequest, services: ServicesOf, deadline: DeadlineOf, request: Request) -> JsonBytes:
    """Embed 1 to 256 chunks."""
    if LAMBDA_EVENT in request.scope and may_be_too_large(len(body.chunks)):
        spec = await served_model(services, deadline)
        longest = max(escaped_size(chunk.chunk_id) for chunk in body.chunks)
        check_answer_fits("chunks", len(body.chunks), spec.dimensions, names=longest)
    if body.store:
        # The call waits for the database, so it must not run on the event loop.
        await asyncio.to_thread(check_chunks_can_be_stored, services.database)
    texts = [chunk.content for chunk in body.chunks]
    answer = await wait_for(services.embedding.submit(texts, body.input_type, body.batch_id, deadline), deadline)
    vectors = [
        {"chunk_id": chunk.chunk_id, "vector": row} for chunk, row in zip(body.chunks, answer.vectors, strict=True)
    ]
    answered: dict[str, object] = {"batch_id": body.batch_id, "vectors": vectors}
    if body.store:
        chunks = [CodeChunk(chunk.chunk_id, chunk.content, chunk.path, chunk.language) for chunk in body.chunks]
        answered["stored"] = await asyncio.to_thread(
            store_chunks, services.database, services.provider, chunks, answer.vectors
        )
    return JsonBytes(answered)


app, handler = create_function("embed", router)
