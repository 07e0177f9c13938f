"""Executes one call of `embed`: divides the texts into requests, retries and checks each request, and finds refused texts."""

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
from shared.models import EmbeddingModel, Embeddings, InputKind, Spent
from shared.providers.answers import WireAnswer, check_answer
from shared.providers.batches import cut_batches
from shared.retry import RetryPolicy, StopSignal

if TYPE_CHECKING:
    from shared.providers.base import EmbeddingProvider

# Prose has fewer characters per token. Before a text is sent, it is cut at this number times the token limit.
LONGEST_TOKEN = 16
# A text that every model accepts. It is embedded to find a model's width, or to check that the provider answers.
PROBE = "music"


@dataclass(eq=False)
class EmbeddingJob:
    """The state of one call of `embed`; used by one thread, once."""

    provider: "EmbeddingProvider"
    spec: EmbeddingModel
    kind: InputKind
    prefix: str
    isolate: bool
    truncate: bool
    spent: Spent
    policy: RetryPolicy
    stop: StopSignal | None
    deadline: Deadline | None

    _inputs: dict[int, str] = field(default_factory=dict)
    _errors: dict[int, ProviderError] = field(default_factory=dict)
    # Indices of texts that were cut, here or by the server.
    _shortened: set[int] = field(default_factory=set)
    # Indices of texts that were refused as too long. Each is sent again alone, and the server cuts it.
    _cut: set[int] = field(default_factory=set)
    # Whether the provider has accepted a text. Before that, it may refuse texts for another reason than their content.
    _accepts: bool = False
    _refusals: int = 0
    # Whether the provider has crashed on a request and then answered a probe. Further crashes then probably have a text
    # as their cause.
    _crashes: bool = False

    def run(self, texts: Sequence[str]) -> Embeddings:
        """Embed the texts; see EmbeddingProvider.embed."""
        tokens, calls = self.spent.tokens, self.spent.calls
        unreported, self.provider.unreported = self.provider.unreported, Spent()
        self.spent.add(unreported.tokens, unreported.calls)
        self._vectors = np.zeros((len(texts), self.spec.dimensions), dtype=np.float32)
        # A text with more tokens than `limit` may be refused.
        self._max_tokens = limit = self.spec.max_tokens if self.provider.shortens_long_texts else None
        for index, text in enumerate(texts):
            if problem := _problem(text):
                self._refuse(index, ProviderInputRejected(problem))
                continue
            text = self.prefix + text
            kept = text if limit is None else text[: limit * LONGEST_TOKEN]
            if len(kept) < len(text):
                if not self.truncate:
                    self._refuse(index, ProviderInputTooLong(limit=limit))
                    continue
                self._shortened.add(index)
            self._inputs[index] = kept
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
            tokens=self.spent.tokens - tokens,
            cut=frozenset(self._shortened),
            calls=self.spent.calls - calls,
            errors=self._errors,
        )

    def _solve(self, batch: list[int], *, known_bad: bool = False) -> bool:
        """Embed a batch, in parts if it is refused; True if one request was enough.

        `known_bad`: the batch contains a text that made a larger batch fail, so the request is skipped.
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
        # If the first half was accepted, the bad text is in the second half, and the request for it can be skipped.
        self._solve(batch[middle:], known_bad=passed)
        return False

    def _embed(self, batch: list[int]) -> bool:
        answer = self._call([self._inputs[index] for index in batch], cut=batch[0] in self._cut)
        unit, unusable = check_answer(answer.vectors, len(batch), self.spec.dimensions, self.spec.name)
        bad = [batch[row] for row in unusable]
        if len(bad) == len(batch):
            raise ProviderContractError("the provider's vector for this text is not finite, or all zero")
        self._accepts = True
        self._vectors[batch] = unit
        self._vectors[bad] = 0
        for index in (batch[row] for row in answer.cut):
            if self.truncate:
                self._shortened.add(index)
            else:
                self._vectors[index] = 0
                self._refuse(index, ProviderInputTooLong(limit=self.spec.max_tokens))
        if not bad:
            return True
        if not self.isolate:
            raise ProviderContractError(f"{len(bad)} of {len(batch)} vectors are not finite, or all zero")
        # The good vectors are paid, so they are kept. The other texts may succeed if they are sent alone.
        self._solve(bad, known_bad=True)
        return False

    def _call(self, inputs: Sequence[str], *, cut: bool = False) -> WireAnswer:
        provider, deadline = self.provider, self.deadline
        request = provider._request_cut if cut and provider.server_cuts else provider._request

        def attempt() -> WireAnswer:
            try:
                answer = request(inputs, None if deadline is None else deadline.left, self.kind)
            except ProviderError as error:
                self.spent.add(provider.billed_tokens(inputs, error.billed), error.calls)
                raise
            self.spent.add(provider.billed_tokens(inputs, answer.tokens), answer.calls)
            return answer

        return provider.retrier.call(attempt, policy=self.policy, stop=self.stop, deadline=deadline)

    def _shorten(self, index: int, error: ProviderInputTooLong) -> None:
        if not self.truncate:
            self._refuse(index, error)
            return
        self._shortened.add(index)
        if self.provider.server_cuts and index not in self._cut:
            self._cut.add(index)
        else:
            # Cut the text here, even if the server was asked to cut it: some versions refuse the text nevertheless.
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
        """Raise the error unless the texts are its likely cause: after all retries, the provider must answer a probe."""
        if not self.isolate:
            raise error
        if not self._crashes or len(batch) == 1:
            # Further crashes are expected, and two attempts are enough to tell a bad text from a temporary failure.
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
        """Raise an error unless the provider accepts a probe. Otherwise a wrong setting would make every row fail."""
        if self._accepts:
            return
        try:
            answer = self._call([PROBE])
            _, unusable = check_answer(answer.vectors, 1, self.spec.dimensions, self.spec.name)
        except ProviderInputRejected as error:
            raise ProviderRejected(f"no request is accepted: {error.message}") from error
        if unusable:
            raise ProviderContractError("the provider's vectors are not finite, or all zero, whatever the text")
        self._accepts = True


def _problem(text: object) -> str | None:
    """The reason why this value cannot be embedded; None for a valid text."""
    if not isinstance(text, str):
        return f"a text must be a string, not {type(text).__name__}"
    if not text:
        return "the text is empty"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "the text contains half of a surrogate pair, which UTF-8 cannot encode"
    return None
