"""Generates synonyms with a chat model of OpenAI or a compatible server (OPENAI_BASE_URL)."""

from collections.abc import Sequence

from pydantic import SecretStr

from shared.errors import ProviderContractError, ProviderInputRejected
from shared.providers.openai.client import OpenAIClient
from shared.retry import Retrier
from shared.synonyms.generators.answers import SCHEMA
from shared.synonyms.generators.base import MAX_TOKENS, Message, SynonymGenerator

DEFAULT_MODEL = "gpt-4o-mini"


class OpenAIGenerator(SynonymGenerator):
    """Asks through POST /chat/completions with structured output: a JSON schema in strict mode."""

    name = "openai"
    _client: OpenAIClient

    def __init__(
        self,
        *,
        api_key: SecretStr,
        model: str = DEFAULT_MODEL,
        base_url: str | None = None,
        timeout: float = 60.0,
        retrier: Retrier | None = None,
    ) -> None:
        super().__init__(model, OpenAIClient(api_key, base_url, model, timeout=timeout, purpose="GENERATION"), retrier)

    def _complete(self, messages: Sequence[Message]) -> str:
        schema = {"name": "synonyms", "strict": True, "schema": dict(SCHEMA)}
        answer = self._client.create(
            "chat.completions",
            [message["content"] for message in messages],
            messages=list(messages),
            response_format={"type": "json_schema", "json_schema": schema},
            max_completion_tokens=MAX_TOKENS,
        )
        choices = getattr(answer, "choices", None)
        message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
        if message is None:
            server = self._client.server
            raise ProviderContractError(f"{server} did not answer in OpenAI's format: check OPENAI_BASE_URL")
        if getattr(message, "refusal", None):
            raise ProviderInputRejected(f"{self._model} refused to write about this tag")
        text = getattr(message, "content", None)
        # `read_synonyms` refuses an empty answer; then the model is asked again.
        return text if isinstance(text, str) else ""
