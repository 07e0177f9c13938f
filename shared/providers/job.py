"""One call of `embed`: cut into requests, each retried and checked, the bad text found if there is one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from shared.errors import (
    ProviderContractError,
    ProviderCrashed,
    ProviderError,
    ProviderInputRejected,
    ProviderInputTooLong,
    ProviderRejected,
    ProviderWidthError,
)
from shared.models import Embeddings
from shared.providers.answers import WireAnswer, check_answer
from shared.providers.batches import cut_batches
from shared.retry import Retrier

# Harmless to any model: asks for a width, or whether the provider answers at all.
PROBE = "music"

# No tokenizer makes fewer tokens of prose: what is beyond this many characters a token is cut unsent.
LONGEST_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Wire:
    """What a job needs of its provider.

    Texts of more than `shorten_over` tokens may be refused; `request_cut`, where the server can cut,
    embeds the beginning of one.
    """

    request: Callable[[Sequence[str]], WireAnswer]
    request_cut: Callable[[Sequence[str]], WireAnswer] | None
    retrier: Retrier
    count_tokens: Callable[[Sequence[str]], list[int]]
    model: str
    dimensions: int
    max_inputs: int
    max_request_tokens: int | None
    shorten_over: int | None


class EmbeddingJob:
    """The state of one `embed`; used by one thread, once."""

    def __init__(self, wire: Wire, texts: Sequence[str], prefix: str, *, isolate: bool) -> None:
        self._wire = wire
        self._texts = texts
        self._prefix = prefix
        self._isolate = isolate
        self._inputs: dict[int, str] = {}
        self._vectors = np.zeros((len(texts), wire.dimensions), dtype=np.float32)
        self._errors: dict[int, ProviderError] = {}
        self._shortened: set[int] = set()
        # Texts refused as too long, which the server has since been asked to cut; they travel alone.
        self._cut: set[int] = set()
        self._tokens = self._truncated = self._calls = 0
        # Whether the provider accepted any text: until then a refusal may not be about the text.
        self._accepts = False
        self._refusals = 0
        self._patient = True

    def run(self) -> Embeddings:
        """Embed everything; see EmbeddingProvider.embed."""
        for index, text in enumerate(self._texts):
            if problem := _problem(text):
                self._refuse(index, ProviderInputRejected(problem))
            else:
                self._inputs[index] = self._clipped(index, self._prefix + text)
        indices = list(self._inputs)
        for batch in self._batches():
            self._solve([indices[position] for position in batch])
        if self._refusals:
            self._expect_acceptance()
        return Embeddings(
            vectors=self._vectors,
            tokens=self._tokens,
            truncated=self._truncated + len(self._shortened),
            calls=self._calls,
            errors=self._errors,
        )

    def _batches(self) -> list[list[int]]:
        wire = self._wire
        counted = wire.max_request_tokens is not None or wire.shorten_over is not None
        inputs = list(self._inputs.values())
        tokens = wire.count_tokens(inputs) if counted else [0] * len(inputs)
        return cut_batches(
            tokens, max_inputs=wire.max_inputs, max_tokens=wire.max_request_tokens, lone_over=wire.shorten_over
        )

    def _clipped(self, index: int, text: str) -> str:
        limit = self._wire.shorten_over
        if limit is None or len(text) <= limit * LONGEST_TOKEN:
            return text
        self._shortened.add(index)
        return text[: limit * LONGEST_TOKEN]

    def _solve(self, batch: list[int], *, known_bad: bool = False) -> bool:
        """Embed a batch, in parts if it is refused; True if it passed whole.

        `known_bad` saves the request where the batch holds a text that has already failed a larger one.
        """
        if not (known_bad and len(batch) > 1):
            try:
                return self._embed(batch)
            except ProviderInputTooLong as error:
                if len(batch) == 1:
                    self._shorten(batch[0], error)
                    return False
            except ProviderCrashed as error:
                self._suspect_text(batch, error)
                if len(batch) == 1:
                    return False
            except ProviderWidthError:
                raise
            except (ProviderInputRejected, ProviderContractError) as error:
                if len(batch) == 1 or not self._isolate:
                    self._refuse(batch[0], error, by_provider=True)
                    return False
        self._split(batch)
        return False

    def _split(self, batch: list[int]) -> None:
        middle = (len(batch) + 1) // 2
        passed = self._solve(batch[:middle])
        # What spoiled the whole and is not in the first half is in the second: no need to ask.
        self._solve(batch[middle:], known_bad=passed)

    def _embed(self, batch: list[int]) -> bool:
        answer = self._call([self._inputs[index] for index in batch], cut=batch[0] in self._cut)
        unit, unusable = check_answer(answer.vectors, len(batch), self._wire.dimensions, self._wire.model)
        bad = [batch[row] for row in unusable]
        if len(bad) == len(batch):
            raise ProviderContractError("the provider's vector for this text is not finite, or all zero")
        self._accepts = True
        self._truncated += answer.truncated or 0
        self._vectors[batch] = unit
        self._vectors[bad] = 0
        if not bad:
            return True
        if not self._isolate:
            raise ProviderContractError(f"{len(bad)} of {len(batch)} vectors are not finite, or all zero")
        # The good rows are paid for and kept; the bad ones may be better on their own.
        self._solve(bad, known_bad=True)
        return False

    def _shorten(self, index: int, error: ProviderInputTooLong) -> None:
        self._shortened.add(index)
        if self._wire.request_cut and index not in self._cut:
            self._cut.add(index)
            self._solve([index])
            return
        # Also where the server was asked to cut: some versions refuse all the same.
        text = self._inputs[index]
        limit = error.limit or self._wire.shorten_over
        if error.tokens and limit and error.tokens > limit:
            keep = int(len(text) * limit / error.tokens * 0.97)
        else:
            # The server did not count: halve what is far over by our estimate, take a quarter off else.
            far_over = limit is None or self._wire.count_tokens([text])[0] > 2 * limit
            keep = len(text) // 2 if far_over else len(text) * 3 // 4
        if keep <= len(self._prefix):
            self._refuse(index, error, by_provider=True)
            return
        self._inputs[index] = text[:keep]
        self._solve([index])

    def _suspect_text(self, batch: list[int], error: ProviderCrashed) -> None:
        """Raise unless the provider fails on these texts only: it was retried long enough, and must answer now."""
        if not self._isolate:
            raise error
        if self._patient or len(batch) == 1:
            # From here on a crash is not news: two attempts tell a text from a hiccup.
            self._patient = False
            try:
                self._call([PROBE])
            except ProviderError:
                raise error from None
        if len(batch) == 1:
            reason = "the provider fails on this text (HTTP 500), though not on others"
            self._refuse(batch[0], ProviderInputRejected(reason))

    def _call(self, inputs: Sequence[str], *, cut: bool = False) -> WireAnswer:
        request = self._wire.request_cut if cut and self._wire.request_cut else self._wire.request

        def attempt() -> WireAnswer:
            self._calls += 1
            return request(inputs)

        retrier = self._wire.retrier
        if not self._patient:
            retrier = retrier.replace(policy=replace(retrier.policy, max_attempts=2))
        answer = retrier.call(attempt)
        self._tokens += sum(self._wire.count_tokens(inputs)) if answer.tokens is None else answer.tokens
        return answer

    def _refuse(self, index: int, error: ProviderError, *, by_provider: bool = False) -> None:
        if not self._isolate:
            raise error
        self._errors[index] = error
        self._shortened.discard(index)
        if by_provider:
            self._refusals += 1
            if self._refusals == 2:
                self._expect_acceptance()

    def _expect_acceptance(self) -> None:
        """Raise unless the provider accepts some text: else a wrong setting would refuse row after row."""
        if self._accepts:
            return
        try:
            answer = self._call([PROBE])
            _, unusable = check_answer(answer.vectors, 1, self._wire.dimensions, self._wire.model)
        except ProviderInputRejected as error:
            raise ProviderRejected(f"every text is refused: {error.message}") from error
        if unusable:
            raise ProviderContractError("the provider's vectors are not finite, or all zero, whatever the text")
        self._accepts = True


def _problem(text: object) -> str | None:
    """Why no provider could embed this value, None if it is a text."""
    if not isinstance(text, str):
        return f"a text must be a string, not {type(text).__name__}"
    if not text:
        return "the text is empty"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "the text holds half of a surrogate pair, which UTF-8 cannot carry"
    return None
