"""Converts texts to token ids with a model's tokenizer, cuts them at the model's limit and counts them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigurationError, ProviderInputRejected

# Of a text with more than this many characters per allowed token, only the beginning is tokenized at first.
FIRST_LOOK = 8
# Tokens beyond the limit that this beginning must have, so that the tokens of a word that was cut in two do not count.
# No word has more tokens: a word-piece tokenizer turns a longer word into one unknown token.
WORD_MARGIN = 128


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of each text with special tokens; how many tokens the model reads, and which texts were cut."""

    ids: list[NDArray[np.int64]]
    tokens: int
    cut: list[int]


class TokenEncoder:
    """The tokenizer of a model; thread-safe.

    For prose, the time depends on the length that the model reads and not on the length of the text. The same is true
    for text without spaces if it contains punctuation or Chinese, or consists of ASCII letters and digits and the model
    uses BERT's word pieces. Any other text without spaces is tokenized whole.
    """

    def __init__(self, path: Path, max_tokens: int) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            # The library raises only the class Exception itself.
            raise ConfigurationError(f"{path} cannot be read: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._max_tokens = max_tokens
        self._shorten = _shortener(self._tokenizer)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Raises ProviderInputRejected for a text that is not valid Unicode."""
        texts = list(texts)
        found: list[NDArray[np.int64] | None] = [None] * len(texts)
        cut = []
        characters = self._max_tokens * FIRST_LOOK
        open_ends = list(range(len(texts)))
        while open_ends:
            try:
                encodings = self._tokenizer.encode_batch_fast([texts[index][:characters] for index in open_ends])
            except (TypeError, UnicodeError) as error:
                raise ProviderInputRejected("a text is not valid Unicode (half of a surrogate pair)") from error
            undecided = []
            for index, encoding in zip(open_ends, encodings, strict=True):
                beyond = sum(len(part.ids) for part in encoding.overflowing)
                if len(texts[index]) > characters and beyond < WORD_MARGIN:
                    texts[index] = self._shorten(texts[index])
                    undecided.append(index)
                    continue
                found[index] = np.array(encoding.ids, dtype=np.int64)
                if encoding.overflowing:
                    cut.append(index)
            open_ends = undecided
            characters *= 4
        whole = [ids for ids in found if ids is not None]
        return Encoded(whole, sum(map(len, whole)), cut)


def _shortener(tokenizer: Any) -> Callable[[str], str]:
    """A function that shortens very long words if this certainly leaves the tokens unchanged, else returns the text as
    it is.

    BERT's pre-tokenizer never cuts between ASCII letters and digits, its normalizer keeps each as one character,
    and a word piece model makes one unknown token of any word that is too long, however long it is. Both ends of the
    word stay, because they may touch other characters; no added token is longer than an end.
    """
    from tokenizers import models, normalizers, pre_tokenizers

    model = tokenizer.model
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    exact = (
        isinstance(model, models.WordPiece)
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and isinstance(tokenizer.normalizer, normalizers.BertNormalizer)
        # The tokenizer finds such a token in the middle of a word too.
        and not any(content.isascii() and content.isalnum() for content in added)
    )
    if not exact:
        return lambda text: text
    end = max(model.max_input_chars_per_word, *map(len, added), 0) + 1
    endless = re.compile(rf"(?<![0-9A-Za-z])[0-9A-Za-z]{{{2 * end + 1},}}")
    return lambda text: endless.sub(lambda word: word[0][:end] + word[0][-end:], text)
