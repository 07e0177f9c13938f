"""Sends requests to OpenAI or a compatible server with the official SDK, for embedding models and for chat models."""

from collections.abc import Sequence
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from shared.errors import ConfigurationError
from shared.providers.answer_bounds import bound_answers, bound_timeout
from shared.providers.openai.errors import translate_openai_error
from shared.providers.reasons import describe_server

if TYPE_CHECKING:
    from openai import OpenAI

DEFAULT_BASE_URL = "https://api.openai.com/v1"


class OpenAIClient:
    """Sends the requests of one model, each within `timeout` seconds in total, and never retries.

    One object serves any number of threads. `purpose` is EMBEDDING or GENERATION; errors name the settings with this
    prefix. Raises ConfigurationError for a key with a character that a header cannot contain.
    """

    def __init__(self, api_key: SecretStr, base_url: str | None, model: str, *, timeout: float, purpose: str) -> None:
        key = api_key.get_secret_value().strip()
        # Check the key here, because the HTTP library's own error would contain the whole header.
        if not key or not key.isascii() or not key.isprintable():
            raise ConfigurationError(
                "OPENAI_API_KEY is empty, or contains a character that is not allowed in an HTTP header"
            )
        self._key = SecretStr(key)
        self._base_url = (base_url or DEFAULT_BASE_URL).rstrip("/")
        self._model = model
        self._timeout = timeout
        self._purpose = purpose
        self.server = describe_server(self._base_url)

    def create(self, resource: str, inputs: Sequence[str], timeout: float | None = None, **parameters: Any) -> Any:
        """Call `create` of a resource (`embeddings` or `chat.completions`) and return the SDK's answer.

        A `timeout` below the client's applies to this request.
        Raises a ProviderError that quotes none of the `inputs`.
        """
        sdk = self._sdk
        import httpx2
        import openai

        limits = bound_timeout(httpx2, self._timeout, timeout)
        try:
            return attrgetter(resource)(sdk).create(model=self._model, timeout=limits, **parameters)
        # ValueError: a body that is not JSON, or an answer without vectors. RecursionError: one nested too deeply.
        except (openai.OpenAIError, ValueError, RecursionError) as error:
            # Do not use "from error": the SDK's text quotes the server, which may quote the key or a row.
            key = self._key.get_secret_value()
            raise translate_openai_error(
                error, inputs, server=self.server, model=self._model, key=key, purpose=self._purpose
            ) from None

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        if sdk := self.__dict__.pop("_sdk", None):
            sdk.close()

    @cached_property
    def _sdk(self) -> "OpenAI":
        try:
            import httpx2
            import openai
        except ImportError as error:
            setting = f"{self._purpose}_PROVIDER=openai"
            raise ConfigurationError(f"{setting} needs the package openai: pip install openai") from error
        # By default the package follows redirects, so an answer could make it send the texts to any host.
        http = openai.DefaultHttpxClient(follow_redirects=False, event_hooks=bound_answers(httpx2))
        return openai.OpenAI(
            api_key=self._key.get_secret_value(), base_url=self._base_url, max_retries=0, http_client=http
        )
