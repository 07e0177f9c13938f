"""The contract of every provider. With --live, it also runs against real servers."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from shared.errors import ProviderInputRejected
from shared.providers.base import EmbeddingProvider

BALLAD = "A slow jazz ballad with brushed drums and an upright bass."
TRIO = "Jazz ballad for a trio: upright bass, brushed drums and piano, slow."
TAX = "The tax return must be filed before the end of the year."


def test_vectors_are_float32_of_unit_length_and_the_declared_width(provider: EmbeddingProvider) -> None:
    vectors = provider.embed_documents([BALLAD, TAX])
    assert (vectors.shape, vectors.dtype) == ((2, provider.dimensions), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_row_i_is_the_vector_of_text_i(provider: EmbeddingProvider) -> None:
    together = provider.embed_documents([BALLAD, TRIO, TAX])
    alone = np.vstack([provider.embed_documents([text]) for text in (BALLAD, TRIO, TAX)])
    assert np.einsum("ij,ij->i", together, alone).min() > 0.99


def test_more_texts_than_a_request_takes_keep_their_order(provider: EmbeddingProvider) -> None:
    texts = [f"chord number {index} in the key of {'ABCDEFG'[index % 7]}" for index in range(provider.max_inputs + 5)]
    result = provider.embed(texts)
    assert result.calls == 2
    last = provider.embed_documents(texts[-3:])
    assert np.einsum("ij,ij->i", result.vectors[-3:], last).min() > 0.99


def test_similar_texts_have_more_similar_vectors(provider: EmbeddingProvider) -> None:
    query = provider.embed_query("slow jazz ballad, brushed drums")
    near, far = provider.embed_documents([TRIO, TAX]) @ query
    assert near > far


def test_a_query_is_embedded_as_a_query(provider: EmbeddingProvider) -> None:
    same = float(provider.embed_query(BALLAD) @ provider.embed_documents([BALLAD])[0])
    spec = provider.spec
    assert (same < 0.9999) == (spec.query_prefix != spec.document_prefix)


def test_tokens_and_calls_are_counted(provider: EmbeddingProvider) -> None:
    result = provider.embed([BALLAD, TAX])
    assert result.calls == 1
    assert result.truncated == 0
    assert 20 <= result.tokens <= 60


def test_the_estimate_before_a_call_is_close_to_the_count_after_it(provider: EmbeddingProvider) -> None:
    assert 0.5 <= sum(provider.count_tokens([BALLAD, TAX])) / provider.embed([BALLAD, TAX]).tokens <= 3


def test_no_texts_give_no_vectors(provider: EmbeddingProvider) -> None:
    assert provider.embed_documents([]).shape == (0, provider.dimensions)


def test_a_text_longer_than_the_model_reads_is_cut_and_counted(provider: EmbeddingProvider) -> None:
    long = "the bass plays the root and the fifth " * 2000
    result = provider.embed([BALLAD, long, TAX])
    assert result.truncated == 1
    assert not result.errors
    assert np.linalg.norm(result.vectors[1]) == pytest.approx(1, abs=1e-3)


def test_a_text_that_is_not_utf8_is_refused_alone(provider: EmbeddingProvider) -> None:
    result = provider.embed([BALLAD, "half \udc80", TAX], isolate=True)
    assert list(result.errors) == [1]
    assert isinstance(result.errors[1], ProviderInputRejected)


def test_emoji_and_other_scripts_are_embedded(provider: EmbeddingProvider) -> None:
    assert provider.embed_documents(["🎹🎻", "琴の音", "música électronique", "a\x00b\tc"]).shape[0] == 4


def test_eight_threads_get_the_same_vectors_as_one(provider: EmbeddingProvider) -> None:
    texts = [f"a song in {beats}/4 time, number {beats}" for beats in range(8)]
    one = provider.embed_documents(texts)
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda text: provider.embed([text]).vectors[0], texts))
    assert np.einsum("ij,ij->i", one, np.array(many)).min() > 0.99
