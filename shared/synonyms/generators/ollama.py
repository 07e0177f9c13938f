"""Synonyms by a chat model of a local Ollama server."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared.errors import ConfigurationError, ProviderContractError, ProviderTimeout
from shared.providers.ollama.errors import read_answer, translate_refused, translate_unanswered
from shared.providers.once import Once
from shared.providers.reasons import describe_server
from shared.retry import Retrier
from shared.synonyms.generators.answers import SCHEMA
from shared.synonyms.generators.base import Message, SynonymGenerator

if TYPE_CHECKING:
    import httpx

DEFAULT_MODEL = "llama3.2:1b"
# Tokens of an answer; a good one takes about 250.
MAX_TOKENS = 1024
MAX_BYTES = 1_000_000


class OllamaGenerator(SynonymGenerator):
    """Asks through POST /api/chat, with the JSON schema as `format`: the server lets the model write nothing else.

    `timeout` is for a whole answer, in seconds: a small computer first loads the model, then writes slowly.
    """

    name = "ollama"

    def __init__(
        self,
        *,
        url: str,
        model: str = DEFAULT_MODEL,
        keep_alive: str = "5m",
        timeout: float = 180.0,
        retrier: Retrier | None = None,
    ) -> None:
        super().__init__(model, retrier)
        self._url = url.rstrip("/")
        self._keep_alive = keep_alive
        self._timeout = timeout
        self._client: Once[httpx.Client] = Once()

    def __repr__(self) -> str:
        return f"OllamaGenerator(model={self._model!r}, server={self._server!r})"

    @property
    def _server(self) -> str:
        return describe_server(self._url)

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        if client := self._client.forget():
            client.close()

    def _connect(self) -> "httpx.Client":
        try:
            import httpx
        except ImportError as error:
            raise ConfigurationError("GENERATION_PROVIDER=ollama needs the package httpx: pip install httpx") from error
        return httpx.Client(timeout=httpx.Timeout(self._timeout, connect=10.0), follow_redirects=False)

    def _complete(self, messages: Sequence[Message]) -> str:
        client = self._client.get(self._connect)
        import httpx

        body = {
            "model": self._model,
            "messages": [dict(message) for message in messages],
            "format": SCHEMA,
            "stream": False,
            "keep_alive": self._keep_alive,
            "options": {"num_predict": MAX_TOKENS, "num_ctx": 4096, "temperature": 0.3},
        }
        try:
            # Read piece by piece: httpx's own time limit is for each piece, and knows no limit of size.
            with client.stream("POST", f"{self._url}/api/chat", json=body) as response:
                content = self._read(response)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict) as error:
            raise translate_unanswered(error, server=self._server, timeout=self._timeout) from error
        if not response.is_success:
            raise translate_refused(
                response.status_code,
                content,
                response.headers,
                [message["content"] for message in messages],
                server=self._server,
                model=self._model,
                doing="chat",
                setting="GENERATION_MODEL",
            )
        message = read_answer(content, server=self._server).get("message")
        text = message.get("content") if isinstance(message, dict) else None
        if not isinstance(text, str):
            raise ProviderContractError(f"{self._server} did not answer in Ollama's format: check OLLAMA_URL")
        return text

    def _read(self, response: "httpx.Response") -> bytes:
        deadline = time.monotonic() + self._timeout
        content = bytearray()
        for piece in response.iter_bytes():
            content += piece
            if len(content) > MAX_BYTES:
                raise ProviderContractError(f"{self._server} answered more than {MAX_BYTES // 1_000_000} MB")
            if time.monotonic() > deadline:
                raise ProviderTimeout(f"Ollama at {self._server} did not finish within {self._timeout:.0f} s")
        return bytes(content)
