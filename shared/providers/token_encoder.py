"""A model's tokenizer: texts in, token ids out, cut at the model's limit and counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigurationError, ProviderInputRejected

# A text longer than this many characters a token is not tokenized whole at first: its beginning has enough.
FIRST_LOOK = 8
# Tokens beyond the limit that a beginning must have, so that the word it was cut in does not count.
# A word piece tokenizer makes no more of a word: longer ones are unknown to it, one token.
WORD_MARGIN = 128


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of each text, special tokens included, and how many texts were cut."""

    ids: list[NDArray[np.int64]]
    truncated: int

    @property
    def tokens(self) -> int:
        """Tokens that the model reads."""
        return sum(map(len, self.ids))


class TokenEncoder:
    """Thread-safe. Time is linear in the length the model reads, not in that of the text, for any prose."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            # The library knows one exception for all: a bare Exception.
            raise ConfigurationError(f"{path} cannot be read: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._max_tokens = max_tokens

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Raises ProviderInputRejected for a text that is not valid Unicode."""
        found: list[NDArray[np.int64] | None] = [None] * len(texts)
        truncated = 0
        characters = self._max_tokens * FIRST_LOOK
        open_ends = list(range(len(texts)))
        while open_ends:
            encodings = self._encode([texts[index][:characters] for index in open_ends])
            undecided = []
            for index, encoding in zip(open_ends, encodings, strict=True):
                beyond = sum(len(part.ids) for part in encoding.overflowing)
                if len(texts[index]) > characters and beyond < WORD_MARGIN:
                    undecided.append(index)
                    continue
                found[index] = np.array(encoding.ids, dtype=np.int64)
                truncated += bool(encoding.overflowing)
            open_ends = undecided
            characters *= 4
        return Encoded([ids for ids in found if ids is not None], truncated)

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        try:
            encodings: list[Any] = self._tokenizer.encode_batch_fast(texts)
        except (TypeError, UnicodeError) as error:
            raise ProviderInputRejected("a text is not valid Unicode (half of a surrogate pair)") from error
        return encodings
