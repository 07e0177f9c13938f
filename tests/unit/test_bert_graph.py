"""Compares the ONNX graph with BERT written in numpy."""

from pathlib import Path

import numpy as np
import pytest

from shared.errors import ConfigurationError
from shared.providers.onnx.bert_graph import build_graph, read_weights
from shared.providers.onnx.int8_graph import quantize_graph
from tests.unit.small_bert import CONFIG, random_weights, reference, write_model

onnxruntime = pytest.importorskip("onnxruntime")

SEQUENCES = [[2, 3], [2, 4, 5, 6, 7, 8, 9, 10, 3], [2, 11, 3], [2, 12, 13, 14, 15, 3], [2]]


def run(graph: bytes, sequences: list[list[int]] = SEQUENCES) -> np.ndarray:
    ids = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_graph_computes_the_same_as_bert_in_numpy(pooling: str) -> None:
    weights = random_weights()
    vectors = run(build_graph(CONFIG, weights, pooling))
    expected = [reference(weights, sequence, pooling) for sequence in SEQUENCES]
    np.testing.assert_allclose(vectors, expected, atol=2e-6)


def test_padding_does_not_change_a_vector() -> None:
    graph = build_graph(CONFIG, random_weights(), "mean")
    together = run(graph)
    for row, sequence in enumerate(SEQUENCES):
        np.testing.assert_allclose(run(graph, [sequence])[0], together[row], atol=1e-6)


def test_the_number_of_layers_comes_from_the_config() -> None:
    weights = random_weights()
    config = CONFIG | {"num_hidden_layers": 1}
    expected = [reference(weights, sequence, "mean", config) for sequence in SEQUENCES]
    np.testing.assert_allclose(run(build_graph(config, weights, "mean")), expected, atol=2e-6)


def test_weights_saved_in_half_precision_under_the_prefix_of_a_task_model_are_read(tmp_path: Path) -> None:
    half = {f"bert.{name}": tensor.astype(np.float16) for name, tensor in random_weights().items()}
    read = read_weights(write_model(tmp_path, weights=half) / "model.safetensors")
    assert read.keys() == random_weights().keys()
    assert {tensor.dtype for tensor in read.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("key", "value"), [("model_type", "roberta"), ("hidden_act", "relu"), ("position_embedding_type", "relative_key")]
)
def test_another_architecture_is_refused_by_the_name_of_its_setting(key: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{key} = '{value}'.*ONNX_MODEL"):
        build_graph(CONFIG | {key: value}, random_weights(), "mean")


def test_missing_weights_are_named() -> None:
    weights = random_weights()
    del weights["encoder.layer.1.output.dense.bias"]
    with pytest.raises(ConfigurationError, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        build_graph(CONFIG, weights, "mean")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigurationError, match="not a safetensors file"):
        read_weights(tmp_path / "model.safetensors")


def test_eight_bit_products_are_close_to_float32() -> None:
    config = CONFIG | {"hidden_size": 192, "intermediate_size": 256}
    graph = build_graph(config, random_weights(config), "mean")
    small = quantize_graph(graph)
    cosines = (run(graph) * run(small)).sum(axis=1)
    assert cosines.min() > 0.98
    assert cosines.max() < 1 - 1e-7
    assert len(small) < 0.8 * len(graph)


def test_a_product_with_a_row_length_that_is_no_multiple_of_64_stays_in_float32() -> None:
    graph = build_graph(CONFIG, random_weights(), "mean")
    np.testing.assert_array_equal(run(quantize_graph(graph)), run(graph))
