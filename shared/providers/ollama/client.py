"""Requests to an Ollama server, for models that embed and models that chat alike."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shared.errors import ConfigurationError
from shared.providers.answer_bounds import bound_answers, bound_timeout
from shared.providers.ollama.errors import read_answer, translate_refused, translate_unanswered
from shared.providers.reasons import describe_server

if TYPE_CHECKING:
    import httpx


class OllamaClient:
    """Sends one model's requests, each answered whole within `timeout` seconds; one object serves any number of threads.

    `purpose` is the setting that chose Ollama, such as EMBEDDING_PROVIDER; errors name it.
    """

    def __init__(self, url: str, model: str, *, timeout: float, purpose: str) -> None:
        self._url = url.rstrip("/")
        self._model = model
        self._timeout = timeout
        self._purpose = purpose
        self.server = describe_server(self._url)

    def post(
        self, path: str, body: Mapping[str, Any], inputs: Sequence[str], timeout: float | None = None, *, doing: str
    ) -> dict[str, Any]:
        """The answer to one request. Raises a ProviderError that quotes none of the `inputs`; `doing` is embed or chat.

        `timeout` is that of this request, where it is less than the client's.
        """
        http = self._http
        import httpx

        limits = bound_timeout(httpx, self._timeout, timeout)
        try:
            response = http.post(self._url + path, json={"model": self._model, **body}, timeout=limits)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict) as error:
            raise translate_unanswered(error, server=self.server, timeout=limits.read) from error
        if response.is_success:
            return read_answer(response.content, server=self.server)
        raise translate_refused(
            response.status_code,
            response.content,
            response.headers,
            inputs,
            server=self.server,
            model=self._model,
            doing=doing,
            setting=self._purpose.replace("_PROVIDER", "_MODEL"),
        )

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        if http := self.__dict__.pop("_http", None):
            http.close()

    @cached_property
    def _http(self) -> "httpx.Client":
        try:
            import httpx
        except ImportError as error:
            raise ConfigurationError(f"{self._purpose}=ollama needs the package httpx: pip install httpx") from error
        return httpx.Client(
            # Stated although it is the default: a redirect would take the texts to whatever host an answer names.
            follow_redirects=False,
            event_hooks=bound_answers(httpx),
        )
