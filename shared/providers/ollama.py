"""Embeddings of a local Ollama server."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic_core import from_json

from shared.errors import (
    ConfigurationError,
    ProviderContractError,
    ProviderCrashed,
    ProviderError,
    ProviderInputRejected,
    ProviderInputTooLong,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
)
from shared.models import EmbeddingModel
from shared.providers.answers import WireAnswer, stack_rows
from shared.providers.base import EmbeddingProvider
from shared.providers.ollama_models import known_model
from shared.providers.once import Once
from shared.providers.reasons import plain_reason
from shared.retry import Retrier, parse_retry_after

if TYPE_CHECKING:
    import httpx

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
        self._url = url.rstrip("/")
        self._model = model.removesuffix(":latest")
        self._known = known_model(self._model)
        self._asked = None if dimensions == self._known.dimensions else dimensions
        self._keep_alive = keep_alive
        self._timeout = timeout
        self._retrier = retrier or Retrier()
        self.price_per_million_tokens = price_per_million_tokens
        self._client: Once[httpx.Client] = Once()
        self._width: Once[int] = Once()

    def __repr__(self) -> str:
        return f"OllamaProvider(model={self._model!r}, server={self._server!r})"

    @property
    def _server(self) -> str:
        """The address without what a URL may hide: user, password, query."""
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"

    @property
    def spec(self) -> EmbeddingModel:
        """The model as this provider declares it; asks the server once for a width nobody knows."""
        known = self._known
        return EmbeddingModel(
            name=f"{self._model}@{self._asked}" if known.dimensions and self._asked else self._model,
            provider=self.name,
            dimensions=self._asked or known.dimensions or self._width.get(self.probe_width),
            document_prefix=known.document_prefix,
            query_prefix=known.query_prefix,
            max_tokens=known.max_tokens,
        )

    def close(self) -> None:
        """Close the connections, also those of its twins; the next call opens them again."""
        if client := self._client.forget():
            client.close()

    def _connect(self) -> "httpx.Client":
        try:
            import httpx
        except ImportError as error:
            raise ConfigurationError("EMBEDDING_PROVIDER=ollama needs the package httpx: pip install httpx") from error
        return httpx.Client(timeout=httpx.Timeout(self._timeout, connect=10.0))

    def _request(self, inputs: Sequence[str]) -> WireAnswer:
        # The server does not say which texts it cut, so by default it may cut none: it refuses the
        # request, and the job finds the text that is too long and sends it again to be cut, and counts it.
        return self._post(inputs, cut=False)

    def _request_cut(self, inputs: Sequence[str]) -> WireAnswer:
        return self._post(inputs, cut=True)

    def _post(self, inputs: Sequence[str], *, cut: bool) -> WireAnswer:
        client = self._client.get(self._connect)
        import httpx

        try:
            response = client.post(f"{self._url}/api/embed", json=self._body(inputs, cut=cut))
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict) as error:
            raise self._unanswered(error) from error
        answer = _json_object(response)
        if not response.is_success:
            raise self._refused(response, answer, inputs)
        rows = answer.get("embeddings")
        if not isinstance(rows, list):
            raise ProviderContractError(f"{self._server} did not answer in Ollama's format: check OLLAMA_URL")
        tokens = answer.get("prompt_eval_count")
        return WireAnswer(vectors=stack_rows(rows), tokens=tokens if isinstance(tokens, int) else None)

    def _body(self, inputs: Sequence[str], *, cut: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
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

    def _unanswered(self, error: Exception) -> ProviderError:
        kinds = {base.__name__ for base in type(error).__mro__}
        if kinds & {"UnsupportedProtocol", "InvalidURL", "LocalProtocolError", "TooManyRedirects", "CookieConflict"}:
            return ProviderRejected(f"{self._server} is not an address to connect to: check OLLAMA_URL")
        if "ConnectTimeout" not in kinds and "TimeoutException" in kinds:
            return ProviderTimeout(f"Ollama at {self._server} did not answer within {self._timeout:.0f} s")
        if "DecodingError" in kinds:
            return ProviderContractError(f"{self._server} did not answer in Ollama's format: check OLLAMA_URL")
        return ProviderUnavailable(
            f"cannot reach Ollama at {self._server}: start it with `ollama serve`, or check OLLAMA_URL"
        )

    def _refused(self, response: "httpx.Response", answer: dict[str, Any], inputs: Sequence[str]) -> ProviderError:
        status = response.status_code
        words = str(answer.get("error", ""))
        said = words.lower()
        reason = plain_reason(answer.get("error"), inputs=inputs)
        if status == 404 and "error" in answer:
            return ProviderRejected(
                f"Ollama at {self._server} does not have the model {self._model}: run `ollama pull {self._model}`"
            )
        if "context length" in said or "too large to process" in said:
            return ProviderInputTooLong("the text is longer than the model reads")
        if "does not support embed" in said or "more system memory" in said:
            return ProviderRejected(f"Ollama cannot embed with {self._model}, check EMBEDDING_MODEL: {reason}")
        # NaN comes as a 500, though it is this text's fault and comes again with every retry.
        if status in (400, 413, 422) or "value: nan" in said or "contains nan" in said:
            return ProviderInputRejected(f"Ollama refused the text (HTTP {status}): {reason}")
        retry_after = parse_retry_after(response.headers.get("retry-after"), time.time())
        if status == 429:
            return ProviderRateLimited(f"Ollama at {self._server} asks to slow down", retry_after=retry_after)
        if status == 408:
            return ProviderTimeout(f"Ollama at {self._server} did not answer in time (HTTP 408)")
        if status == 500:
            return ProviderCrashed(f"Ollama at {self._server} failed on the request: {reason}", retry_after=retry_after)
        if status > 501:
            return ProviderUnavailable(f"Ollama at {self._server} is failing (HTTP {status})", retry_after=retry_after)
        return ProviderRejected(
            f"{self._server} refused the request (HTTP {status}): check OLLAMA_URL, and that it is Ollama 0.3 or later"
        )


def _json_object(response: "httpx.Response") -> dict[str, Any]:
    """The body as an object; an empty one where it is anything else, as a proxy's page is."""
    try:
        # Five times as fast as the json module: a batch is half a megabyte of digits.
        body = from_json(response.content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
