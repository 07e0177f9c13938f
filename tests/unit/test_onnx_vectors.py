"""Tests the vectors of the in-process engine, with a small test model and the packaged model."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from shared.models import EmbeddingModel
from shared.providers.onnx.bert_graph import build_graph, read_weights
from shared.providers.onnx.provider import OnnxProvider
from tests.unit.onnx_texts import LOSSLESS, ids_of, phrases
from tests.unit.small_bert import CONFIG, random_weights, reference, write_model

pytest.importorskip("onnxruntime")


PHRASES = [
    "reverb",
    "a slow jazz ballad in 6/8 with brushes and an upright bass",
    "Side-chain the bass to the kick so that both are heard.",
    "Über die Klangfarbe: zwölf Töne, né à Paris — 音楽 🎸",
    "gain staging " * 40,
]


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
    # The output depends on the other inputs, so they must be set.
    nodes = [
        helper.make_node("Add", ["input_ids", "token_type_ids"], ["ids"]),
        helper.make_node("Gather", ["table", "ids"], ["states"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        # Padding gets large values, so that pooling over it would change the result.
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


def test_the_packaged_model_gives_similar_texts_similar_vectors(packaged: OnnxProvider) -> None:
    query = packaged.embed_query("how to make room for the bass drum")
    near, far = packaged.embed_documents([PHRASES[2], "The minor seventh resolves down by step."])
    assert query @ near > query @ far + 0.2


def test_every_engine_gives_the_vectors_of_float32(packaged: OnnxProvider, cache_dir: Path) -> None:
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


def test_without_a_working_openvino_the_engine_reports_onnxruntime(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["OpenVINOExecutionProvider"])
    # Like onnxruntime: use another provider than the requested one, without an error.
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


def test_equal_texts_have_equal_vectors_in_any_batch(packaged: OnnxProvider) -> None:
    among_others = packaged.embed_documents([*phrases(60), *PHRASES, *phrases(60, seed=6), *PHRASES])
    alone = np.stack([packaged.embed_query(text) for text in PHRASES])
    for together in (among_others[60 : 60 + len(PHRASES)], among_others[-len(PHRASES) :]):
        assert (together * alone).sum(axis=1).min() >= LOSSLESS


def test_several_workers_get_the_same_vectors_as_one_call(small: OnnxProvider) -> None:
    texts = phrases(1000)
    expected = small.embed_documents(texts)
    parts = [texts[start : start + 50] for start in range(0, len(texts), 50)]
    with ThreadPoolExecutor(8) as workers:
        vectors = np.concatenate(list(workers.map(small.embed_documents, parts)))
    np.testing.assert_allclose(vectors, expected, atol=5e-6)


def test_the_engine_gives_no_vectors_for_no_texts(small: OnnxProvider) -> None:
    assert small.embed_documents([]).shape == (0, 24)
