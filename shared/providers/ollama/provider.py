"""Embeddings of a local Ollama server."""

from collections.abc import Sequence
from typing import Any

from shared.deadline import Deadline
from shared.errors import ProviderContractError
from shared.models import EmbeddingModel, shortened_model_name
from shared.providers.answers import WireAnswer, stack_rows
from shared.providers.base import EmbeddingProvider
from shared.providers.ollama.client import OllamaClient
from shared.providers.ollama.models import known_model
from shared.retry import Retrier

DEFAULT_URL = "http://127.0.0.1:11434"
DEFAULT_MODEL = "nomic-embed-text"


class OllamaProvider(EmbeddingProvider):
    """Embeds through POST /api/embed.

    A model that is not in our table has the width `dimensions` says, or what one probing call
    returns. `timeout` is long because the first call also loads the model, from an SD card at
    worst. Tokens before a call are estimated; after it they are the server's count.
    """

    name = "ollama"
    # A request is answered when its last text is done: enough to amortise it, few enough for a
    # Raspberry Pi to finish within `timeout`.
    max_inputs = 64
    max_request_tokens = 32_768
    shortens_long_texts = True
    server_cuts = True

    def __init__(
        self,
        *,
        url: str = DEFAULT_URL,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        keep_alive: str = "30m",
        timeout: float = 300.0,
        price_per_million_tokens: float = 0.0,
        retrier: Retrier | None = None,
    ) -> None:
        self._model = model.removesuffix(":latest")
        self._known = known_model(self._model)
        self._asked = None if dimensions == self._known.dimensions else dimensions
        self._keep_alive = keep_alive
        self._client = OllamaClient(url, self._model, timeout=timeout, purpose="EMBEDDING_PROVIDER")
        super().__init__(retrier=retrier, width=dimensions or self._known.dimensions)
        self.price_per_million_tokens = price_per_million_tokens

    def __repr__(self) -> str:
        return f"OllamaProvider(model={self._model!r}, server={self._client.server!r})"

    def describe(self, deadline: Deadline | None = None) -> EmbeddingModel:
        """The model as this provider declares it; a width that is not known is asked for once, within the deadline."""
        known = self._known
        return EmbeddingModel(
            name=shortened_model_name(self._model, self._asked if known.dimensions else None),
            provider=self.name,
            dimensions=self._width or self._learn_width(deadline),
            document_prefix=known.document_prefix,
            query_prefix=known.query_prefix,
            max_tokens=known.max_tokens,
        )

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self._client.close()

    def _request(self, inputs: Sequence[str], timeout: float | None = None) -> WireAnswer:
        # The server does not say which texts it cut, so by default it may cut none: it refuses the
        # request, and the job finds the text that is too long, sends it again to be cut, and counts it.
        return self._post(inputs, timeout, cut=False)

    def _request_cut(self, inputs: Sequence[str], timeout: float | None = None) -> WireAnswer:
        return self._post(inputs, timeout, cut=True)

    def _post(self, inputs: Sequence[str], timeout: float | None, *, cut: bool) -> WireAnswer:
        answer = self._client.post("/api/embed", self._body(inputs, cut=cut), inputs, timeout, doing="embed")
        rows = answer.get("embeddings")
        if not isinstance(rows, list):
            raise ProviderContractError(f"{self._client.server} did not answer in Ollama's format: check OLLAMA_URL")
        tokens = answer.get("prompt_eval_count")
        return WireAnswer(vectors=stack_rows(rows), tokens=tokens if isinstance(tokens, int) else None)

    def _body(self, inputs: Sequence[str], *, cut: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "input": list(inputs),
            "truncate": cut,
            "keep_alive": self._keep_alive,
        }
        if self._known.max_tokens:
            # The server's default window may be shorter than the model's; its limit should be ours.
            body["options"] = {"num_ctx": self._known.max_tokens}
        if self._asked is not None:
            body["dimensions"] = self._asked
        return body
