"""Synonyms by OpenAI's chat models, or any server that speaks their protocol (OPENAI_BASE_URL)."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from pydantic import SecretStr

from shared.errors import ProviderContractError, ProviderInputRejected
from shared.providers.openai.client import DEFAULT_BASE_URL, check_key, connect_openai
from shared.providers.openai.errors import translate_openai_error
from shared.providers.reasons import describe_server
from shared.retry import Retrier
from shared.synonyms.generators.answers import SCHEMA
from shared.synonyms.generators.base import MAX_TOKENS, Message, SynonymGenerator

if TYPE_CHECKING:
    from openai import OpenAI

DEFAULT_MODEL = "gpt-4o-mini"


class OpenAIGenerator(SynonymGenerator):
    """Asks through POST /chat/completions with structured output: a JSON schema in strict mode."""

    name = "openai"

    def __init__(
        self,
        *,
        api_key: SecretStr,
        model: str = DEFAULT_MODEL,
        base_url: str | None = None,
        timeout: float = 60.0,
        retrier: Retrier | None = None,
    ) -> None:
        super().__init__(model, retrier)
        self._key = check_key(api_key)
        self._base_url = (base_url or DEFAULT_BASE_URL).rstrip("/")
        self._timeout = timeout
        self._server = describe_server(self._base_url)

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        if client := self.__dict__.pop("_client", None):
            client.close()

    @cached_property
    def _client(self) -> "OpenAI":
        return connect_openai(self._key, self._base_url, self._timeout, setting="GENERATION_PROVIDER=openai")

    def _complete(self, messages: Sequence[Message]) -> str:
        client = self._client
        import openai

        try:
            answer = client.chat.completions.create(
                model=self._model,
                messages=cast("Any", list(messages)),
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "synonyms", "strict": True, "schema": dict(SCHEMA)},
                },
                max_completion_tokens=MAX_TOKENS,
            )
        except (openai.OpenAIError, ValueError, RecursionError) as error:
            translated = translate_openai_error(
                error,
                [message["content"] for message in messages],
                server=self._server,
                model=self._model,
                key=self._key.get_secret_value(),
                kind="chat",
                setting="GENERATION_MODEL",
            )
            # Not "from error": the SDK's text quotes the server, which may quote the key.
            raise translated from None
        choices = getattr(answer, "choices", None)
        message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
        if message is None:
            raise ProviderContractError(f"{self._server} did not answer in OpenAI's format: check OPENAI_BASE_URL")
        if getattr(message, "refusal", None):
            raise ProviderInputRejected(f"{self._model} refused to write about this tag")
        text = getattr(message, "content", None)
        # An empty answer is refused by its reader, and the model is asked again.
        return text if isinstance(text, str) else ""
