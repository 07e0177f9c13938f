"""Converts the matrix products of an ONNX model to 8 bits. This is faster on CPUs without bfloat16, but less exact."""

from typing import Any

import numpy as np

# On processors with AMX, onnxruntime's 8-bit kernel reads beyond the end of rows whose length is not a multiple of this,
# and its results differ from run to run. Such products stay in float32.
_TILE = 64


def quantize_graph(serialized: bytes) -> bytes:
    """Return the model with 8-bit products for every constant matrix whose number of rows is a multiple of 64.

    Weights are quantised here, for each column. Activations are quantised while the model runs, for each batch.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(serialized)
    matrices = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2}
    nodes: list[Any] = []
    replaced: dict[str, Any] = {}
    for node in model.graph.node:
        matrix = matrices.get(node.input[1]) if node.op_type == "MatMul" else None
        if matrix is None or matrix.dims[0] % _TILE:
            nodes.append(node)
            continue
        weight = numpy_helper.to_array(matrix).astype(np.float32)
        scale = np.maximum(np.abs(weight).max(axis=0), np.finfo(np.float32).tiny) / 127
        small = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
        replaced[matrix.name] = (
            numpy_helper.from_array(small, matrix.name + ".int8"),
            numpy_helper.from_array(scale.astype(np.float32), matrix.name + ".scale"),
        )
        nodes.extend(_product(node.output[0], node.input[0], matrix.name))
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in replaced]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept + [tensor for pair in replaced.values() for tensor in pair])
    quantized: bytes = model.SerializeToString()
    return quantized


def _product(output: str, value: str, matrix: str) -> list[Any]:
    """The nodes of one quantised product, in the pattern that onnxruntime fuses into one kernel."""
    from onnx import TensorProto, helper

    small, scale, zero, total, real, factor = (
        f"{output}.{part}" for part in ("small", "scale", "zero", "total", "real", "factor")
    )
    return [
        helper.make_node("DynamicQuantizeLinear", [value], [small, scale, zero]),
        helper.make_node("MatMulInteger", [small, matrix + ".int8", zero], [total]),
        helper.make_node("Cast", [total], [real], to=TensorProto.FLOAT),
        helper.make_node("Mul", [scale, matrix + ".scale"], [factor]),
        helper.make_node("Mul", [real, factor], [output]),
    ]
