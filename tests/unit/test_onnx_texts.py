"""Tests the in-process engine with long texts, endless words and any Unicode."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import ProviderInputRejected, ProviderInputTooLong
from shared.providers.onnx.provider import OnnxProvider
from shared.providers.onnx.token_encoder import TokenEncoder
from tests.unit.onnx_texts import ids_of, phrases
from tests.unit.small_bert import MAX_TOKENS

pytest.importorskip("onnxruntime")


def test_long_texts_are_cut_at_the_limit_and_counted(small: OnnxProvider) -> None:
    fits, too_long = " ".join(["bass"] * (MAX_TOKENS - 2)), " ".join(["bass"] * (MAX_TOKENS - 1))
    answer = small.embed([fits, too_long, "bass", "bass " * 30_000])
    assert len(answer.cut) == 2
    assert answer.tokens == 3 * MAX_TOKENS + 3
    np.testing.assert_allclose(answer.vectors[[1, 3]], answer.vectors[[0, 0]], atol=5e-6)


def test_tokens_are_counted_before_a_run_as_they_are_in_it(small: OnnxProvider) -> None:
    texts = phrases(100)
    answer = small.embed(texts)
    counts = small.count_tokens(texts)
    assert sum(counts) == answer.tokens
    assert max(counts) == MAX_TOKENS
    assert counts == [len(ids_of(text)) for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        "bass " * 20_000,
        "音" * 100_000,
        "." * 100_000,
        "a" * 100_000,
        " " * 100_000 + "jazz bass",
        "bas" + " bass" * 9_000,
    ],
    ids=["words", "chinese", "points", "one word", "blanks first", "cut in a word"],
)
def test_a_text_of_100_kilobytes_has_the_tokens_of_its_beginning(packaged: OnnxProvider, text: str) -> None:
    encoder = packaged.encoder
    started = time.process_time()
    found = encoder.encode([text])
    assert time.process_time() - started < 1
    whole = encoder._tokenizer.encode(text)
    assert found.ids[0].tolist() == whole.ids
    assert found.cut == [0] * bool(whole.overflowing)


def test_a_word_cut_by_the_first_pass_is_not_counted(folder: Path) -> None:
    # The whole word is one unknown token; only its beginning would be split into many tokens.
    text = "bass " * 12 + "bass" + "s" * 120 + " jazz" * 100
    encoder = TokenEncoder(folder / "tokenizer.json", MAX_TOKENS)
    assert encoder.encode([text]).ids[0].tolist() == ids_of(text)


def spy(encoder: TokenEncoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the texts that the encoder gives to its tokenizer."""
    seen: list[int] = []
    real = encoder._tokenizer

    def encode_batch_fast(texts: list[str]) -> Any:
        seen.extend(map(len, texts))
        return real.encode_batch_fast(texts)

    monkeypatch.setattr(encoder, "_tokenizer", SimpleNamespace(encode_batch_fast=encode_batch_fast))
    return seen


def test_a_long_text_is_tokenized_only_up_to_the_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TokenEncoder(folder / "tokenizer.json", MAX_TOKENS)
    seen = spy(encoder, monkeypatch)
    encoder.encode(["bass " * 100_000])
    assert sum(seen) < 10_000


@pytest.mark.parametrize("character", ["a", "Z7"])
def test_an_endless_word_is_not_tokenized_whole(
    packaged: OnnxProvider, character: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = packaged.encoder
    seen = spy(encoder, monkeypatch)
    found = encoder.encode([character * 1_000_000])
    assert sum(seen) < 10_000
    assert found.ids[0].tolist() == [101, 100, 102]
    assert not found.cut


# Characters in and around very long words: marks, other scripts, punctuation, tokens of the model.
AROUND = ["", " ", "-", "_", "é", "\u0301", "ß", "中", "[UNK]", "[", "]", "SEP]", "\u200d", "\0", "²", "東a", "word "]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(AROUND),
            st.sampled_from(["a", "Q", "7", "aB3", "UNK", "[UNK]"]),
            st.integers(1, 2000),
            st.sampled_from(AROUND),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_words_without_their_middle_have_the_same_tokens(
    packaged: OnnxProvider, parts: list[tuple[str, str, int, str]]
) -> None:
    text = "".join(before + word * times + after for before, word, times, after in parts)
    encoder = packaged.encoder
    whole = encoder._tokenizer.encode(text)
    shortened = encoder._tokenizer.encode(encoder._shorten(text))
    assert shortened.ids == whole.ids
    assert [part.ids for part in shortened.overflowing] == [part.ids for part in whole.overflowing]
    found = encoder.encode([text])
    assert found.ids[0].tolist() == whole.ids
    assert found.cut == [0] * bool(whole.overflowing)


def test_another_kind_of_tokenizer_gets_every_word_whole(folder: Path, tmp_path: Path) -> None:
    """Such a tokenizer may split a word anywhere, and find an added token inside a word."""
    endless = "x" * 5000
    own = json.loads((folder / "tokenizer.json").read_text())
    token = {"id": 900, "content": "xyx", "single_word": False, "lstrip": False, "rstrip": False}
    changes: list[dict[str, Any]] = [
        {},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"normalizer": None},
        {"added_tokens": [*own["added_tokens"], {**token, "normalized": False, "special": False}]},
    ]
    lengths = []
    for change in changes:
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps({**own, **change}))
        lengths.append(len(TokenEncoder(path, MAX_TOKENS)._shorten(endless)))
    assert lengths[0] < 300
    assert lengths[1:] == [5000, 5000, 5000]


def test_unicode_of_every_kind_has_a_vector(packaged: OnnxProvider) -> None:
    texts = [
        "\0",
        "a\0b",
        " ",
        "\n\t",
        "🎸🎸🎸",
        "\u202e\u200b\ufeff",
        "e\u0301\u0301\u0301",
        "𝄞",
        "\U0010ffff",
        "\x7f\x1b[31m",
    ]
    answer = packaged.embed(texts, isolate=True)
    assert answer.errors == {}
    np.testing.assert_allclose(np.linalg.norm(answer.vectors, axis=1), 1, atol=1e-6)


def test_a_text_that_cannot_be_embedded_is_isolated(small: OnnxProvider) -> None:
    texts = ["jazz", "half a pair: \ud83c", "", "bass"]
    answer = small.embed(texts, isolate=True)
    assert set(answer.errors) == {1, 2}
    assert all(isinstance(error, ProviderInputRejected) for error in answer.errors.values())
    np.testing.assert_allclose(answer.vectors[[0, 3]], small.embed_documents(["jazz", "bass"]), atol=5e-6)


def test_half_a_surrogate_pair_raises_our_error_even_in_the_wire_call(small: OnnxProvider) -> None:
    with pytest.raises(ProviderInputRejected, match="Unicode"):
        small._request(["jazz", "\udfb8"])


def test_a_text_that_may_not_be_cut_is_refused_alone(small: OnnxProvider) -> None:
    too_long = " ".join(["bass"] * MAX_TOKENS)
    answer = small.embed(["bass", too_long, "drum"], isolate=True, truncate=False)
    assert {index: type(error) for index, error in answer.errors.items()} == {1: ProviderInputTooLong}
    assert not answer.cut
    assert answer.vectors.any(axis=1).tolist() == [True, False, True]
    with pytest.raises(ProviderInputTooLong):
        small.embed([too_long], truncate=False)
