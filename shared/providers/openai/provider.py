"""Embeds texts with OpenAI or a compatible server (OPENAI_BASE_URL)."""

import binascii
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import SecretStr

from shared.errors import ProviderContractError
from shared.models import EmbeddingModel, shortened_model_name
from shared.providers.answers import WireAnswer, stack_rows
from shared.providers.base import EmbeddingProvider
from shared.providers.openai.client import OpenAIClient
from shared.providers.prices import OPENAI_PRICES
from shared.retry import Retrier

if TYPE_CHECKING:
    from openai.types import Embedding

DEFAULT_MODEL = "text-embedding-3-small"

# Native width of each; all of them read 8192 tokens a text (API reference, "Create embeddings").
KNOWN_WIDTHS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
MAX_TOKENS = 8192


class OpenAIProvider(EmbeddingProvider):
    """Embeds through POST /embeddings with the official SDK.

    `dimensions` asks a text-embedding-3 model for shorter vectors: another vector space, so the model is stored under
    another name (`text-embedding-3-small@512`). For another vendor's model, `dimensions` or one probing call gives the
    width. Tokens are estimated before a call (see estimate_tokens) and taken from the server's count after it.
    """

    name = "openai"
    max_inputs = 2048
    max_request_tokens = 300_000
    shortens_long_texts = True

    def __init__(
        self,
        *,
        api_key: SecretStr,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        base_url: str | None = None,
        timeout: float = 60.0,
        price_per_million_tokens: float | None = None,
        retrier: Retrier | None = None,
    ) -> None:
        native = KNOWN_WIDTHS.get(model, 0)
        asked = None if dimensions == native else dimensions
        declared = EmbeddingModel(
            shortened_model_name(model, asked if native else None),
            self.name,
            dimensions or native,
            max_tokens=MAX_TOKENS if native else None,
        )
        price = OPENAI_PRICES.get(model, 0.0) if price_per_million_tokens is None else price_per_million_tokens
        super().__init__(declared, retrier=retrier, price=price)
        self._client = OpenAIClient(api_key, base_url, model, timeout=timeout, purpose="EMBEDDING")
        self._options = {} if asked is None else {"dimensions": asked}

    def __repr__(self) -> str:
        return f"OpenAIProvider(model={self.model!r}, server={self._client.server!r})"

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self._client.close()

    def _request(self, inputs: Sequence[str], timeout: float | None = None) -> WireAnswer:
        answer = self._client.create(
            "embeddings", inputs, timeout, input=list(inputs), encoding_format="base64", **self._options
        )
        rows = getattr(answer, "data", None)
        if not isinstance(rows, list):
            server = self._client.server
            raise ProviderContractError(f"{server} did not answer in OpenAI's format: check OPENAI_BASE_URL")
        tokens = getattr(getattr(answer, "usage", None), "prompt_tokens", None)
        vectors = stack_rows([_numbers(row) for row in _in_order(rows, len(inputs))])
        return WireAnswer(vectors, tokens if isinstance(tokens, int) else None)


def _in_order(rows: list["Embedding"], count: int) -> list["Embedding"]:
    if len(rows) != count:
        raise ProviderContractError(f"the provider answered {len(rows)} vectors to {count} texts")
    by_index = {getattr(row, "index", None): row for row in rows}
    if set(by_index) != set(range(count)):
        raise ProviderContractError("the provider's vectors are not numbered from 0 to one less than the texts")
    return [by_index[index] for index in range(count)]


def _numbers(row: "Embedding") -> object:
    vector: object = getattr(row, "embedding", None)
    if not isinstance(vector, str):
        return vector
    try:
        return np.frombuffer(binascii.a2b_base64(vector), dtype="<f4")
    except (ValueError, binascii.Error) as error:
        raise ProviderContractError("the provider's vectors are not base64 of 32-bit floats") from error
