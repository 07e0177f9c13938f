"""Builds the ONNX graph of a BERT sentence encoder from its safetensors and config.json.

Pooling and L2 normalisation are part of the graph: its inputs are token ids, its outputs unit vectors. It has only
standard operators, in patterns that OpenVINO and onnxruntime can fuse.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigurationError

# This number is part of the cache key. Raise it whenever the graph changes.
BUILDER_VERSION = 1

OPSET = 20
IR_VERSION = 9
# This is added to the scores of padding. Its exponential is 0 in float32 and in bfloat16, and it cannot overflow.
MASKED = -10_000.0
# This is added to a norm, so that a row of zeros does not become NaN.
SMALLEST_NORM = 1e-12

Array = NDArray[Any]


def read_weights(path: Path) -> dict[str, Array]:
    """Every tensor of a safetensors file, in float32."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ConfigurationError(f"{path} is not a safetensors file: {error}") from error
    # Checkpoints of BertFor... classes name the encoder `bert.`; those of BertModel do not.
    return {name.removeprefix("bert."): np.asarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}


def build_graph(config: Mapping[str, Any], weights: Mapping[str, Array], pooling: str) -> bytes:
    """Return the serialized model.

    Its inputs are `input_ids` and `attention_mask` (n x length, int64), its output is `sentence_embedding` (n x d,
    float32). `pooling` is "mean" (over the tokens that are not padding) or "cls" (the first token).
    """
    _require_supported(config)
    try:
        return _Builder(config, weights).build(pooling)
    except KeyError as error:
        raise ConfigurationError(f"the safetensors lack {error}: not the weights of a BERT encoder") from error


def _require_supported(config: Mapping[str, Any]) -> None:
    expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for key, value in expected.items():
        found = config.get(key, value)
        if found != value:
            raise ConfigurationError(
                f"config.json says {key} = {found!r}; a graph is built for {value!r} only. "
                "Export the model to ONNX and set ONNX_MODEL to the folder with model.onnx"
            )


class _Builder:
    """Collects the nodes and initializers of one graph."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
        from onnx import TensorProto, helper, numpy_helper

        self._onnx, self._tensors, self._types = helper, numpy_helper, TensorProto
        self._weights = weights
        self._hidden = int(config["hidden_size"])
        self._heads = int(config["num_attention_heads"])
        self._layers = int(config["num_hidden_layers"])
        self._epsilon = float(config.get("layer_norm_eps", 1e-12))
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}

    def build(self, pooling: str) -> bytes:
        mask = self._node("Cast", "attention_mask", to=self._types.FLOAT)
        hidden = self._embeddings()
        bias = self._mask_bias(mask)
        for layer in range(self._layers):
            hidden = self._layer(f"encoder.layer.{layer}.", hidden, bias)
        pooled = self._first_token(hidden) if pooling == "cls" else self._sum_over_mask(hidden, mask)
        norm = self._node("ReduceL2", pooled, self._ints("last", [-1]), keepdims=1)
        self._node("Div", pooled, self._node("Max", norm, self._float("tiny", SMALLEST_NORM)), out="sentence_embedding")
        return self._serialized()

    def _embeddings(self) -> str:
        words = self._node("Gather", self._weight("embeddings.word_embeddings.weight"), "input_ids")
        # There is only one segment. Its embedding is the same for every token, so it is added when the graph is built.
        segment = self._weights["embeddings.token_type_embeddings.weight"][0]
        positions = self._constant("positions", self._weights["embeddings.position_embeddings.weight"] + segment)
        length = self._node("Shape", "input_ids", start=1, end=2)
        zero = self._ints("zero", [0])
        embedded = self._node("Add", words, self._node("Slice", positions, zero, length, zero))
        return self._layer_norm("embeddings.LayerNorm", embedded)

    def _mask_bias(self, mask: str) -> str:
        padding = self._node("Sub", self._float("one", 1.0), self._node("Unsqueeze", mask, self._ints("heads", [1, 2])))
        return self._node("Mul", padding, self._float("masked", MASKED))

    def _layer(self, layer: str, hidden: str, bias: str) -> str:
        attended = self._linear(layer + "attention.output.dense", self._attention(layer, hidden, bias))
        hidden = self._layer_norm(layer + "attention.output.LayerNorm", self._node("Add", attended, hidden))
        wide = self._node("Gelu", self._linear(layer + "intermediate.dense", hidden), approximate="none")
        narrow = self._linear(layer + "output.dense", wide)
        return self._layer_norm(layer + "output.LayerNorm", self._node("Add", narrow, hidden))

    def _attention(self, layer: str, hidden: str, bias: str) -> str:
        width = self._hidden // self._heads
        shape = self._ints("by_head", [0, 0, self._heads, width])
        query, key, value = (
            self._node("Reshape", self._linear(f"{layer}attention.self.{part}", hidden), shape)
            for part in ("query", "key", "value")
        )
        query = self._node("Transpose", query, perm=[0, 2, 1, 3])
        key = self._node("Transpose", key, perm=[0, 2, 3, 1])
        value = self._node("Transpose", value, perm=[0, 2, 1, 3])
        scores = self._node("Mul", self._node("MatMul", query, key), self._float("scale", width**-0.5))
        weights = self._node("Softmax", self._node("Add", scores, bias), axis=-1)
        mixed = self._node("Transpose", self._node("MatMul", weights, value), perm=[0, 2, 1, 3])
        return self._node("Reshape", mixed, self._ints("joined", [0, 0, self._hidden]))

    def _sum_over_mask(self, hidden: str, mask: str) -> str:
        # The sum is enough: mean and sum have the same direction, and normalisation keeps only the direction.
        middle = self._ints("middle", [1])
        return self._node("Squeeze", self._node("MatMul", self._node("Unsqueeze", mask, middle), hidden), middle)

    def _first_token(self, hidden: str) -> str:
        return self._node("Gather", hidden, self._constant("first", np.array(0, dtype=np.int64)), axis=1)

    def _linear(self, name: str, value: str) -> str:
        weight = self._constant(name + ".weight", self._weights[name + ".weight"].T)
        return self._node("Add", self._node("MatMul", value, weight), self._weight(name + ".bias"))

    def _layer_norm(self, name: str, value: str) -> str:
        scale, offset = self._weight(name + ".weight"), self._weight(name + ".bias")
        return self._node("LayerNormalization", value, scale, offset, axis=-1, epsilon=self._epsilon)

    def _node(self, operator: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        output = out or f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(self._onnx.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def _weight(self, name: str) -> str:
        return self._constant(name, self._weights[name])

    def _ints(self, name: str, values: list[int]) -> str:
        return self._constant(name, np.array(values, dtype=np.int64))

    def _float(self, name: str, value: float) -> str:
        return self._constant(name, np.array(value, dtype=np.float32))

    def _constant(self, name: str, value: Array) -> str:
        if name not in self._initializers:
            self._initializers[name] = self._tensors.from_array(np.asarray(value, order="C"), name)
        return name

    def _serialized(self) -> bytes:
        helper, types = self._onnx, self._types
        shape = ["n", "length"]
        inputs = [helper.make_tensor_value_info(name, types.INT64, shape) for name in ("input_ids", "attention_mask")]
        output = helper.make_tensor_value_info("sentence_embedding", types.FLOAT, ["n", self._hidden])
        tensors = list(self._initializers.values())
        graph = helper.make_graph(self._nodes, "sentence_encoder", inputs, [output], tensors)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="tonnetz")
        serialized: bytes = model.SerializeToString()
        return serialized
