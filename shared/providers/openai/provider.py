"""OpenAI's embeddings, and any server that speaks its protocol (OPENAI_BASE_URL)."""

import binascii
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from pydantic import SecretStr

from shared.deadline import Deadline
from shared.errors import ProviderContractError
from shared.models import EmbeddingModel, shortened_model_name
from shared.providers.answer_bounds import bound_timeout
from shared.providers.answers import WireAnswer, stack_rows
from shared.providers.base import EmbeddingProvider
from shared.providers.openai.client import DEFAULT_BASE_URL, check_key, connect_openai
from shared.providers.openai.errors import translate_openai_error
from shared.providers.prices import openai_price
from shared.providers.reasons import describe_server
from shared.retry import Retrier

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types import Embedding

DEFAULT_MODEL = "text-embedding-3-small"

# Native width of each; all of them read 8192 tokens a text (API reference, "Create embeddings").
KNOWN_WIDTHS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
MAX_TOKENS = 8192


class OpenAIProvider(EmbeddingProvider):
    """Embeds through POST /embeddings with the official SDK.

    `dimensions` asks a text-embedding-3 model for shorter vectors: another vector space, so the
    model is stored under another name (`text-embedding-3-small@512`). A model that is not OpenAI's
    has the width `dimensions` says, or what one probing call returns. Tokens before a call are
    estimated (see estimate_tokens); after it they are the server's count.
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
        self._key = check_key(api_key)
        self._model = model
        self._asked = None if dimensions == KNOWN_WIDTHS.get(model) else dimensions
        self._base_url = (base_url or DEFAULT_BASE_URL).rstrip("/")
        self._timeout = timeout
        super().__init__(retrier=retrier, width=dimensions or KNOWN_WIDTHS.get(model))
        known_price = openai_price(model) or 0.0
        self.price_per_million_tokens = known_price if price_per_million_tokens is None else price_per_million_tokens

    def __repr__(self) -> str:
        return f"OpenAIProvider(model={self._model!r}, server={self._server!r})"

    @property
    def _server(self) -> str:
        return describe_server(self._base_url)

    def describe(self, deadline: Deadline | None = None) -> EmbeddingModel:
        """The model as this provider declares it; a width that is not known is asked for once, within the deadline."""
        native = self._model in KNOWN_WIDTHS
        return EmbeddingModel(
            name=shortened_model_name(self._model, self._asked if native else None),
            provider=self.name,
            dimensions=self._width or self._learn_width(deadline),
            max_tokens=MAX_TOKENS if native else None,
        )

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        if client := self.__dict__.pop("_client", None):
            client.close()

    @cached_property
    def _client(self) -> "OpenAI":
        return connect_openai(self._key, self._base_url, self._timeout, setting="EMBEDDING_PROVIDER=openai")

    def _request(self, inputs: Sequence[str], timeout: float | None = None) -> WireAnswer:
        client = self._client
        import openai

        try:
            answer = client.embeddings.create(
                input=list(inputs),
                model=self._model,
                dimensions=self._asked if self._asked is not None else openai.omit,
                encoding_format="base64",
                timeout=bound_timeout(openai, self._timeout, timeout),
            )
        # ValueError: a body that is not JSON, or an answer without vectors. RecursionError: one nested too deeply.
        except (openai.OpenAIError, ValueError, RecursionError) as error:
            key = self._key.get_secret_value()
            translated = translate_openai_error(error, inputs, server=self._server, model=self._model, key=key)
            # Not "from error": the SDK's text quotes the server, which may quote the key or a row.
            raise translated from None
        rows = getattr(answer, "data", None)
        if not isinstance(rows, list):
            raise ProviderContractError(f"{self._server} did not answer in OpenAI's format: check OPENAI_BASE_URL")
        tokens = getattr(getattr(answer, "usage", None), "prompt_tokens", None)
        return WireAnswer(
            vectors=stack_rows([_numbers(row) for row in _in_order(rows, len(inputs))]),
            tokens=tokens if isinstance(tokens, int) else None,
        )


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
