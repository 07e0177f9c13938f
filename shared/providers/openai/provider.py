"""Embeds texts with OpenAI or a compatible server (OPENAI_BASE_URL)."""

import binascii
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import SecretStr

from shared.errors import ProviderContractError, ProviderError, ProviderFormatRefused
from shared.models import AS_KNOWN, EmbeddingModel, InputKind, InputRules, shortened_model_name
from shared.providers.answers import WireAnswer, paid, reported_tokens, stack_rows
from shared.providers.base import EmbeddingProvider
from shared.providers.openai.client import OpenAIClient
from shared.providers.prices import OPENAI_PRICES
from shared.retry import Retrier

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from openai.types import Embedding

DEFAULT_MODEL = "text-embedding-3-small"

# The full width of each model of OpenAI. All of them read 8192 tokens of a text (API reference, "Create embeddings").
KNOWN_WIDTHS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
MAX_TOKENS = 8192

# The servers that refused base64 in this process.
_WITHOUT_BASE64: set[str] = set()


class OpenAIProvider(EmbeddingProvider):
    """Embeds through POST /embeddings with the official SDK.

    With `dimensions`, a text-embedding-3 model returns shorter vectors. They cannot be compared with the full ones, so the
    model is stored under another name (`text-embedding-3-small@512`). For a model of another vendor, the width is
    `dimensions`, or it is found by embedding one word. Before a call, tokens are estimated (estimate_tokens); after it,
    the server's count is used.
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
        rules: InputRules = AS_KNOWN,
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
        super().__init__(declared, retrier=retrier, price=price, rules=rules)
        self.price_is_known = price_per_million_tokens is not None or model in OPENAI_PRICES
        self._client = OpenAIClient(api_key, base_url, model, timeout=timeout, purpose="EMBEDDING")
        self._options: dict[str, Any] = {} if asked is None else {"dimensions": asked}
        self._types = rules.types
        self.shortens_vectors = model.startswith("text-embedding-3")

    def __repr__(self) -> str:
        return f"OpenAIProvider(model={self.model!r}, server={self._client.server!r})"

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self._client.close()

    def _request(self, inputs: Sequence[str], timeout: float | None = None, kind: InputKind = "document") -> WireAnswer:
        server = self._client.server
        # Ask for base64, because such an answer is a quarter of the size of one with decimal digits.
        asked = "float" if server in _WITHOUT_BASE64 else "base64"
        try:
            return self._ask(inputs, timeout, kind, asked)
        except ProviderFormatRefused:
            if asked == "float":
                raise
        try:
            answer = self._ask(inputs, timeout, kind, "float")
        except ProviderError as error:
            error.calls += 1
            raise
        _WITHOUT_BASE64.add(server)
        return replace(answer, calls=2)

    def _ask(self, inputs: Sequence[str], timeout: float | None, kind: InputKind, encoding: str) -> WireAnswer:
        options = dict(self._options)
        if self._types is not None:
            query, document = self._types
            options["extra_body"] = {"input_type": query if kind == "query" else document}
        answer = self._client.create(
            "embeddings", inputs, timeout, input=list(inputs), encoding_format=encoding, **options
        )
        rows = getattr(answer, "data", None)
        if not isinstance(rows, list):
            server = self._client.server
            raise ProviderContractError(f"{server} did not answer in OpenAI's format: check OPENAI_BASE_URL")
        tokens = reported_tokens(getattr(getattr(answer, "usage", None), "prompt_tokens", None))
        width = self.declared.dimensions
        with paid(tokens):
            return WireAnswer(stack_rows([_numbers(row, width) for row in _in_order(rows, len(inputs))]), tokens)


def _in_order(rows: list["Embedding"], count: int) -> list["Embedding"]:
    """The rows in the order of the texts.

    Some servers leave out all indices, or only index 0, and some send index 0 for every vector. If there is no other index
    than 0, the rows are assumed to be in the order of the texts. The index of a single row is not read.
    """
    if len(rows) != count:
        raise ProviderContractError(f"the provider answered {len(rows)} vectors to {count} texts")
    numbers = [getattr(row, "index", None) or 0 for row in rows]
    if count == 1 or not any(numbers):
        return rows
    by_number = {number: row for number, row in zip(numbers, rows, strict=True) if isinstance(number, int)}
    if set(by_number) != set(range(count)):
        raise ProviderContractError(
            "the provider's vectors do not have each index from 0 to the number of texts minus one"
        )
    return [by_number[number] for number in range(count)]


def _numbers(row: "Embedding", width: int) -> object:
    """The vector of a row. `width` is the width of the model's vectors, 0 if it is not known yet."""
    vector: object = getattr(row, "embedding", None)
    if not isinstance(vector, str):
        return vector
    try:
        octets = binascii.a2b_base64(vector)
        numbers = np.frombuffer(octets, dtype="<f4")
    except (ValueError, binascii.Error) as error:
        raise ProviderContractError("the provider's vectors are not base64 of 32-bit floats") from error
    if len(octets) % 8 or len(octets) == 4 * width or _is_plausible(numbers):
        return numbers
    # The bytes are not plausible as 32-bit numbers. Some servers send 64-bit numbers, so read them as 64-bit numbers.
    wide = np.frombuffer(octets, dtype="<f8")
    return wide if _is_plausible(wide) else numbers


def _is_plausible(numbers: "NDArray[np.floating[Any]]") -> bool:
    """Whether the numbers can be a vector. If 64-bit numbers are read as 32-bit numbers, some are as large as 1e38."""
    return bool(np.isfinite(numbers).all() and np.abs(numbers).max(initial=0) < 1e9)
