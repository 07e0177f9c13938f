"""Embeds texts with an Ollama server."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shared.errors import ProviderContractError
from shared.models import AS_KNOWN, InputKind, InputRules, shortened_model_name
from shared.providers.answers import WireAnswer, paid, reported_tokens, stack_rows
from shared.providers.base import EmbeddingProvider
from shared.providers.ollama.client import OllamaClient
from shared.providers.ollama.models import known_model
from shared.retry import Retrier

DEFAULT_URL = "http://127.0.0.1:11434"
DEFAULT_MODEL = "nomic-embed-text"


class OllamaProvider(EmbeddingProvider):
    """Embeds through POST /api/embed.

    For a model that is not in models.py, the width is `dimensions`, or it is found by embedding one word. `timeout` is
    long because the first call also loads the model, possibly from an SD card. Before a call, tokens are estimated; after
    it, the server's count is used.
    """

    name = "ollama"
    # The server answers when the last text of a request is done. The limits allow enough texts to save overhead, and few
    # enough for a Raspberry Pi to finish within `timeout`.
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
        rules: InputRules = AS_KNOWN,
    ) -> None:
        known = known_model(model)
        asked = None if dimensions == known.dimensions else dimensions
        name = shortened_model_name(known.name, asked if known.dimensions else None)
        declared = replace(known, name=name, dimensions=dimensions or known.dimensions)
        super().__init__(declared, retrier=retrier, price=price_per_million_tokens, rules=rules)
        self._client = OllamaClient(url, known.name, timeout=timeout, purpose="EMBEDDING")
        # These options are part of every request.
        self._options: dict[str, Any] = {"keep_alive": keep_alive}
        if known.max_tokens:
            # The server's default window may be shorter than the model's limit.
            self._options["options"] = {"num_ctx": known.max_tokens}
        if asked is not None:
            self._options["dimensions"] = asked

    def __repr__(self) -> str:
        return f"OllamaProvider(model={self.model!r}, server={self._client.server!r})"

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self._client.close()

    def _request(
        self, inputs: Sequence[str], timeout: float | None = None, kind: InputKind = "document", *, cut: bool = False
    ) -> WireAnswer:
        # The server does not say which texts it cut. So the first request forbids it to cut (`truncate` false), and the
        # server refuses a request with a text that is too long. EmbeddingJob then finds this text and sends it again, to be
        # cut and counted.
        body = {"input": list(inputs), "truncate": cut, **self._options}
        answer = self._client.post("/api/embed", body, inputs, timeout)
        rows = answer.get("embeddings")
        if not isinstance(rows, list):
            raise ProviderContractError(f"{self._client.server} did not answer in Ollama's format: check OLLAMA_URL")
        tokens = reported_tokens(answer.get("prompt_eval_count"))
        with paid(tokens):
            return WireAnswer(stack_rows(rows), tokens)

    def _request_cut(
        self, inputs: Sequence[str], timeout: float | None = None, kind: InputKind = "document"
    ) -> WireAnswer:
        return self._request(inputs, timeout, kind, cut=True)
