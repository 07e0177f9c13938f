"""Sends requests to an Ollama server, for embedding models and for chat models."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from shared.errors import ConfigurationError, ProviderContractError, ProviderUnavailable
from shared.providers.answer_bounds import bound_answers, bound_timeout
from shared.providers.ollama.errors import translate_refused, translate_unanswered
from shared.providers.reasons import describe_server

if TYPE_CHECKING:
    import httpx


class OllamaClient:
    """Sends the requests of one model, each within `timeout` seconds in total, from any number of threads.

    `purpose` is EMBEDDING or GENERATION; errors name the settings with this prefix.
    """

    def __init__(self, url: str, model: str, *, timeout: float, purpose: str) -> None:
        self._url = url.rstrip("/")
        self._model = model
        self._timeout = timeout
        self._purpose = purpose
        self.server = describe_server(self._url)

    def post(
        self, path: str, body: Mapping[str, Any], inputs: Sequence[str], timeout: float | None = None
    ) -> dict[str, Any]:
        """Return the answer to one request. Raises a ProviderError that quotes none of the `inputs`.

        A `timeout` below the client's applies to this request.
        """
        http = self._http
        import httpx

        limits = bound_timeout(httpx, self._timeout, timeout)
        try:
            response = http.post(self._url + path, json={"model": self._model, **body}, timeout=limits)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict) as error:
            raise translate_unanswered(error, server=self.server, timeout=limits.read) from error
        try:
            # This is five times as fast as the json module, and the answer to a batch is half a megabyte of digits.
            answer = from_json(response.content)
        except ValueError as error:
            if response.is_success and "recursion limit" in str(error):
                raise ProviderUnavailable(
                    f"{self.server} sent an unreadable answer; if this happens again, check OLLAMA_URL"
                ) from None
            answer = None
        if not response.is_success:
            said = answer if isinstance(answer, dict) else {}
            raise translate_refused(
                response, said, inputs, server=self.server, model=self._model, purpose=self._purpose
            )
        if not isinstance(answer, dict):
            raise ProviderContractError(f"{self.server} did not answer in Ollama's format: check OLLAMA_URL")
        return answer

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        if http := self.__dict__.pop("_http", None):
            http.close()

    @cached_property
    def _http(self) -> "httpx.Client":
        try:
            import httpx
        except ImportError as error:
            setting = f"{self._purpose}_PROVIDER=ollama"
            raise ConfigurationError(f"{setting} needs the package httpx: pip install httpx") from error
        # False is also the default. It is set here because with redirects, an answer could make the client send the texts
        # to any host.
        return httpx.Client(follow_redirects=False, event_hooks=bound_answers(httpx))
