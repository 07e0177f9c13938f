"""One call of `embed`: cuts the texts into requests, retries and checks each, and finds the texts that are refused."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from shared.deadline import Deadline
from shared.errors import (
    ProviderContractError,
    ProviderCrashed,
    ProviderError,
    ProviderInputRejected,
    ProviderInputTooLong,
    ProviderRejected,
    ProviderWidthError,
)
from shared.models import EmbeddingModel, Embeddings
from shared.providers.answers import WireAnswer, check_answer
from shared.providers.batches import cut_batches
from shared.retry import RetryPolicy, StopSignal

if TYPE_CHECKING:
    from shared.providers.base import EmbeddingProvider

# No tokenizer makes fewer tokens of prose: characters beyond this many a token are never sent.
LONGEST_TOKEN = 16
# Harmless to any model: asks for a width, or whether the provider answers at all.
PROBE = "music"


@dataclass(eq=False)
class EmbeddingJob:
    """The state of one `embed`; used by one thread, once."""

    provider: "EmbeddingProvider"
    spec: EmbeddingModel
    prefix: str
    isolate: bool
    policy: RetryPolicy
    stop: StopSignal | None
    deadline: Deadline | None

    _inputs: dict[int, str] = field(default_factory=dict)
    _errors: dict[int, ProviderError] = field(default_factory=dict)
    _shortened: set[int] = field(default_factory=set)
    # Texts refused as too long, which the server has since been asked to cut; each is a request of its own.
    _cut: set[int] = field(default_factory=set)
    _tokens: int = 0
    _truncated: int = 0
    _calls: int = 0
    # Whether the provider accepted any text: until then a refusal may not be about the text.
    _accepts: bool = False
    _refusals: int = 0
    # Whether the provider has crashed and answered a probe since: crashes are then looked for in the texts.
    _crashes: bool = False

    def run(self, texts: Sequence[str]) -> Embeddings:
        """Embed everything; see EmbeddingProvider.embed."""
        self._vectors = np.zeros((len(texts), self.spec.dimensions), dtype=np.float32)
        # Texts of more tokens may be refused.
        self._max_tokens = limit = self.spec.max_tokens if self.provider.shortens_long_texts else None
        for index, text in enumerate(texts):
            if problem := _problem(text):
                self._refuse(index, ProviderInputRejected(problem))
                continue
            text = self.prefix + text
            self._inputs[index] = text if limit is None else text[: limit * LONGEST_TOKEN]
            if len(self._inputs[index]) < len(text):
                self._shortened.add(index)
        indices, inputs = list(self._inputs), list(self._inputs.values())
        provider = self.provider
        counts = provider.max_request_tokens is not None or limit is not None
        for batch in cut_batches(
            provider.count_tokens(inputs) if counts else [0] * len(inputs),
            max_inputs=provider.max_inputs,
            max_tokens=provider.max_request_tokens,
            lone_over=limit,
        ):
            self._solve([indices[position] for position in batch])
        if self._refusals and not self._accepts:
            self._expect_acceptance()
        return Embeddings(
            vectors=self._vectors,
            tokens=self._tokens,
            truncated=self._truncated + len(self._shortened),
            calls=self._calls,
            errors=self._errors,
        )

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
                if len(batch) == 1 or not self.isolate:
                    self._refuse(batch[0], error, by_provider=True)
                    return False
        middle = (len(batch) + 1) // 2
        passed = self._solve(batch[:middle])
        # What spoiled the whole and is not in the first half is in the second: no need to ask.
        self._solve(batch[middle:], known_bad=passed)
        return False

    def _embed(self, batch: list[int]) -> bool:
        answer = self._call([self._inputs[index] for index in batch], cut=batch[0] in self._cut)
        unit, unusable = check_answer(answer.vectors, len(batch), self.spec.dimensions, self.spec.name)
        bad = [batch[row] for row in unusable]
        if len(bad) == len(batch):
            raise ProviderContractError("the provider's vector for this text is not finite, or all zero")
        self._accepts = True
        self._truncated += answer.truncated or 0
        self._vectors[batch] = unit
        self._vectors[bad] = 0
        if not bad:
            return True
        if not self.isolate:
            raise ProviderContractError(f"{len(bad)} of {len(batch)} vectors are not finite, or all zero")
        # The good rows are paid for and kept; the bad ones may be better on their own.
        self._solve(bad, known_bad=True)
        return False

    def _call(self, inputs: Sequence[str], *, cut: bool = False) -> WireAnswer:
        provider, deadline = self.provider, self.deadline
        request = provider._request_cut if cut and provider.server_cuts else provider._request

        def attempt() -> WireAnswer:
            self._calls += 1
            return request(inputs, None if deadline is None else deadline.left)

        answer = provider.retrier.call(attempt, policy=self.policy, stop=self.stop, deadline=deadline)
        self._tokens += sum(provider.count_tokens(inputs)) if answer.tokens is None else answer.tokens
        return answer

    def _shorten(self, index: int, error: ProviderInputTooLong) -> None:
        self._shortened.add(index)
        if self.provider.server_cuts and index not in self._cut:
            self._cut.add(index)
        else:
            # Also where the server was asked to cut: some versions refuse all the same.
            text, limit = self._inputs[index], error.limit or self._max_tokens
            if error.tokens and limit and error.tokens > limit:
                kept = int(len(text) * limit / error.tokens * 0.97)
            else:
                far_over = limit is None or self.provider.count_tokens([text])[0] > 2 * limit
                kept = len(text) // 2 if far_over else len(text) * 3 // 4
            self._inputs[index] = text[:kept]
            if len(self._inputs[index]) <= len(self.prefix):
                self._refuse(index, error, by_provider=True)
                return
        self._solve([index])

    def _suspect_text(self, batch: list[int], error: ProviderCrashed) -> None:
        """Raise unless the provider fails on these texts only: it was retried long enough, and must answer now."""
        if not self.isolate:
            raise error
        if not self._crashes or len(batch) == 1:
            # The next crashes are expected: two attempts distinguish a bad text from a passing failure.
            self._crashes = True
            self.policy = replace(self.policy, max_attempts=2)
            try:
                self._call([PROBE])
            except ProviderError:
                raise error from None
        if len(batch) == 1:
            reason = "the provider fails on this text (HTTP 500), though not on others"
            self._refuse(batch[0], ProviderInputRejected(reason))

    def _refuse(self, index: int, error: ProviderError, *, by_provider: bool = False) -> None:
        if not self.isolate:
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
            _, unusable = check_answer(answer.vectors, 1, self.spec.dimensions, self.spec.name)
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
