"""Converts texts to token ids with a model's tokenizer, cuts them at the model's limit and counts them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigurationError, ProviderInputRejected

# If a text has more characters than this number times the token limit, only its beginning is tokenized at first.
FIRST_LOOK = 8
# This beginning must have this many tokens more than the limit. So the tokens of its last word, which may be cut in two,
# are beyond the limit. No word has more tokens: a word-piece tokenizer turns a longer word into one unknown token.
WORD_MARGIN = 128


@dataclass(frozen=True, slots=True)
class Encoded:
    """The token ids of each text, with special tokens; the number of tokens that the model reads; the texts that were cut."""

    ids: list[NDArray[np.int64]]
    tokens: int
    cut: list[int]


class TokenEncoder:
    """The tokenizer of a model; thread-safe.

    Only the beginning of a long text is tokenized, so the time does not depend on the length of the text. This is true
    for prose. It is also true for text without spaces that contains punctuation or Chinese, or that consists of ASCII
    letters and digits if the model uses BERT's word pieces. Any other text without spaces is tokenized to its end.
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
        """Tokenize the texts. Raises ProviderInputRejected for a text that is not valid Unicode."""
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
    """Return a function that shortens very long words of a text, if this cannot change the tokens.

    For another tokenizer than BERT's, the function returns the text unchanged. BERT's pre-tokenizer never cuts between
    ASCII letters and digits, and its normalizer keeps each of them as one character. A word piece model makes one unknown
    token of any word that is too long, whatever its length. The function keeps both ends of a word, because an added token
    may overlap with them; no added token is longer than such an end.
    """
    from tokenizers import models, normalizers, pre_tokenizers

    model = tokenizer.model
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    exact = (
        isinstance(model, models.WordPiece)
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and isinstance(tokenizer.normalizer, normalizers.BertNormalizer)
        # The tokenizer finds such an added token also in the middle of a word.
        and not any(content.isascii() and content.isalnum() for content in added)
    )
    if not exact:
        return lambda text: text
    end = max(model.max_input_chars_per_word, *map(len, added), 0) + 1
    endless = re.compile(rf"(?<![0-9A-Za-z])[0-9A-Za-z]{{{2 * end + 1},}}")
    return lambda text: endless.sub(lambda word: word[0][:end] + word[0][-end:], text)
