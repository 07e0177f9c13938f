"""What every generator of synonyms is: one call of a chat model, wrapped in retry, checks and second chances."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from shared.errors import ProviderContractError
from shared.models import Tag
from shared.retry import Retrier, RetryPolicy
from shared.synonyms.generators.answers import InvalidAnswer, read_synonyms

Message = Mapping[str, str]

# How often a model is asked for one tag: small ones get the form wrong now and then, and mend it when told what.
MAX_ANSWERS = 3
# An answer takes seconds to minutes: a second try is worth waiting for, a tenth is not.
RETRIES = RetryPolicy(max_attempts=2, max_seconds=300, base_wait=0.5, max_wait=10)

_PROMPT = Path(__file__).with_name("synonyms_prompt.md")


class SynonymGenerator(ABC):
    """Writes synonyms for a tag; a subclass writes `_complete`.

    One object serves any number of threads. `model` names the provider too (`ollama:llama3.2:1b`): it is stored with
    what the model wrote.
    """

    name: ClassVar[str]

    def __init__(self, model: str, retrier: Retrier | None = None) -> None:
        self._model = model
        self._retrier = retrier or Retrier(RETRIES)

    @property
    def model(self) -> str:
        """The name under which answers of this generator are stored."""
        return f"{self.name}:{self._model}"

    @property
    def retrier(self) -> Retrier:
        """The retry loop around every call."""
        return self._retrier

    def with_retrier(self, retrier: Retrier) -> Self:
        """This generator, connections shared, under another retry policy or stop signal."""
        import copy

        twin = copy.copy(self)
        twin._retrier = retrier
        return twin

    def generate(self, tag: Tag) -> dict[str, Any]:
        """Synonyms for the tag, checked: {search_terms, related_tags, usage_context, translations: {fr, en}}.

        An answer that is not valid is sent back with the reason, MAX_ANSWERS times in all. Raises
        ProviderContractError with the last reason, or what the calls raise.
        """
        question = [{"role": "system", "content": _read_prompt()}, {"role": "user", "content": _describe(tag)}]
        messages: Sequence[Message] = question
        reason = ""
        for _ in range(MAX_ANSWERS):
            answer = self._retrier.call(lambda messages=messages: self._complete(messages))  # type: ignore[misc]
            try:
                return read_synonyms(answer, tag.name, tag.related)
            except InvalidAnswer as problem:
                reason = str(problem)
            messages = [
                *question,
                # As much as shows it what it did.
                {"role": "assistant", "content": answer[:1000] or "{}"},
                {"role": "user", "content": f"This cannot be used: {reason}. Answer again, with the one JSON object."},
            ]
        raise ProviderContractError(
            f"{self._model} wrote no valid synonyms in {MAX_ANSWERS} answers; the last time {reason}"
        )

    @abstractmethod
    def _complete(self, messages: Sequence[Message]) -> str:
        """Ask once, under SCHEMA; translate every vendor exception into the ProviderError tree."""

    def close(self) -> None:  # noqa: B027 - a generator in process has nothing to close
        """Close the connections; the next call opens them again."""


def _describe(tag: Tag) -> str:
    # JSON: whatever a name holds, it stays a name.
    fields = {"tag": tag.name, "type": tag.tag_type, "description": tag.description, "other_tags": list(tag.related)}
    return json.dumps({key: value for key, value in fields.items() if value}, ensure_ascii=False)


@cache
def _read_prompt() -> str:
    return _PROMPT.read_text(encoding="utf-8")
