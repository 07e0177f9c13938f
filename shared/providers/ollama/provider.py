"""Embeddings of a local Ollama server."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shared.errors import ConfigurationError, ProviderContractError
from shared.models import EmbeddingModel, shortened_model_name
from shared.providers.answer_bounds import bound_answers
from shared.providers.answers import WireAnswer, stack_rows
from shared.providers.base import EmbeddingProvider
from shared.providers.ollama.errors import read_answer, translate_refused, translate_unanswered
from shared.providers.ollama.models import known_model
from shared.providers.once import Once
from shared.providers.reasons import describe_server
from shared.retry import Retrier

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
        return describe_server(self._url)

    @property
    def spec(self) -> EmbeddingModel:
        """The model as this provider declares it; asks the server once for a width nobody knows."""
        known = self._known
        return EmbeddingModel(
            name=shortened_model_name(self._model, self._asked if known.dimensions else None),
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
        return httpx.Client(
            timeout=httpx.Timeout(self._timeout, connect=10.0),
            # Said although it is the default: a redirect would take the texts to whatever host an answer names.
            follow_redirects=False,
            event_hooks={"response": [bound_answers(httpx, self._timeout)]},
        )

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
            raise translate_unanswered(error, server=self._server, timeout=self._timeout) from error
        if not response.is_success:
            raise translate_refused(
                response.status_code,
                response.content,
                response.headers,
                inputs,
                server=self._server,
                model=self._model,
                doing="embed",
                setting="EMBEDDING_MODEL",
            )
        answer = read_answer(response.content, server=self._server)
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
