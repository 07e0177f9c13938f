"""The base class of the generators of synonyms: asks a chat model, retries, and asks again if the answer is invalid."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from shared.errors import ProviderContractError
from shared.models import Tag
from shared.providers.ollama.client import OllamaClient
from shared.providers.openai.client import OpenAIClient
from shared.retry import Retrier, RetryPolicy, StopSignal
from shared.synonyms.generators.answers import InvalidAnswer, read_synonyms

Message = Mapping[str, str]

# The most answers for a tag: small models sometimes violate the format, and correct it when they get the reason.
MAX_ANSWERS = 3
# The most tokens of one answer; a good one has about 250.
MAX_TOKENS = 1024
# An answer takes seconds to minutes, so only a few tries are worth the wait.
RETRIES = RetryPolicy(max_attempts=2, max_seconds=300, base_wait=0.5, max_wait=10)

_PROMPT = Path(__file__).with_name("synonyms_prompt.md").read_text(encoding="utf-8")


class SynonymGenerator(ABC):
    """Writes synonyms for a tag; a subclass writes `_complete`.

    One object serves any number of threads. `model` names the provider too (`ollama:llama3.2:1b`): it is stored with
    the synonyms.
    """

    name: ClassVar[str]

    def __init__(self, model: str, client: OllamaClient | OpenAIClient, retrier: Retrier | None = None) -> None:
        self._model = model
        self.model = f"{self.name}:{model}"
        self._client = client
        self._retrier = retrier or Retrier(RETRIES)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self._model!r}, server={self._client.server!r})"

    def generate(self, tag: Tag, stop: StopSignal | None = None) -> dict[str, Any]:
        """Return checked synonyms for the tag: {search_terms, related_tags, usage_context, translations: {fr, en}}.

        An invalid answer is sent back to the model with the reason, until there were MAX_ANSWERS answers. Raises
        ProviderContractError with the last reason, Interrupted if `stop` is set before a retry, or the errors of the
        calls.
        """
        fields = {"tag": tag.name, "type": tag.tag_type, "description": tag.description, "other_tags": tag.related}
        # Describe the tag as JSON, so that the model does not read the tag's name as an instruction.
        described = json.dumps({key: value for key, value in fields.items() if value}, ensure_ascii=False)
        question = [{"role": "system", "content": _PROMPT}, {"role": "user", "content": described}]
        messages: Sequence[Message] = question
        reason = ""
        for _ in range(MAX_ANSWERS):
            answer = self._retrier.call(partial(self._complete, messages), stop=stop)
            try:
                return read_synonyms(answer, tag.name, tag.related)
            except InvalidAnswer as problem:
                reason = str(problem)
            messages = [
                *question,
                # The beginning is enough to show the model its mistake.
                {"role": "assistant", "content": answer[:1000] or "{}"},
                {"role": "user", "content": f"This cannot be used: {reason}. Answer again, with the one JSON object."},
            ]
        raise ProviderContractError(
            f"{self._model} wrote no valid synonyms in {MAX_ANSWERS} answers; the last time {reason}"
        )

    @abstractmethod
    def _complete(self, messages: Sequence[Message]) -> str:
        """Ask once for an answer that follows SCHEMA. Every vendor exception is translated to a ProviderError."""

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self._client.close()
