"""Generates synonyms with a chat model of an Ollama server."""

from collections.abc import Sequence

from shared.errors import ProviderContractError
from shared.providers.ollama.client import OllamaClient
from shared.retry import Retrier
from shared.synonyms.generators.answers import SCHEMA
from shared.synonyms.generators.base import MAX_TOKENS, Message, SynonymGenerator

DEFAULT_MODEL = "llama3.2:1b"


class OllamaGenerator(SynonymGenerator):
    """Asks through POST /api/chat. The JSON schema is the field `format`, so that the server makes the model follow it.

    `timeout` is for a whole answer, in seconds. It is long, because a small computer first loads the model, and then
    computes slowly.
    """

    name = "ollama"
    _client: OllamaClient

    def __init__(
        self, *, url: str, model: str = DEFAULT_MODEL, timeout: float = 180.0, retrier: Retrier | None = None
    ) -> None:
        super().__init__(model, OllamaClient(url, model, timeout=timeout, purpose="GENERATION"), retrier)

    def _complete(self, messages: Sequence[Message]) -> str:
        body = {
            "messages": list(messages),
            "format": SCHEMA,
            "stream": False,
            "keep_alive": "5m",
            "options": {"num_predict": MAX_TOKENS, "num_ctx": 4096, "temperature": 0.3},
        }
        message = self._client.post("/api/chat", body, [message["content"] for message in messages]).get("message")
        text = message.get("content") if isinstance(message, dict) else None
        if not isinstance(text, str):
            raise ProviderContractError(f"{self._client.server} did not answer in Ollama's format: check OLLAMA_URL")
        return text
