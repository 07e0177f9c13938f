"""Embeddings in this process: onnxruntime, with OpenVINO where it is installed."""

import json
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from shared.deadline import Deadline
from shared.errors import ConfigurationError, ProviderContractError, ProviderError
from shared.models import EmbeddingModel, Vectors
from shared.providers.answers import WireAnswer
from shared.providers.base import EmbeddingProvider
from shared.providers.onnx.bert_graph import BUILDER_VERSION, build_graph, read_weights
from shared.providers.onnx.graph_cache import GraphCache, fingerprint
from shared.providers.onnx.int8_graph import quantize_graph
from shared.providers.onnx.model import OnnxModel, find_model
from shared.providers.onnx.stream_pool import StreamPool, Tokens
from shared.providers.onnx.token_encoder import Encoded, TokenEncoder

Precision = Literal["auto", "fp32", "int8"]

# Texts tokenized at a time, while the streams work on those before them.
PART = 512
# A failed provider or a parse error raises; what onnxruntime would print besides is noise (3: errors, 4: fatal).
LOG_SEVERITY = 4
# bfloat16 keeps every vector within a cosine of 0.9998 of float32's, at twice the speed where the CPU has it.
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


class OnnxProvider(EmbeddingProvider):
    """A BERT-like sentence encoder on this machine's CPU; by default all-MiniLM-L6-v2, 384 dimensions.

    `source` is a directory, a hub id or None, see `find_model`; built graphs are kept in `cache_dir`.
    `precision` "auto" is the fastest lossless one of this CPU (cosine to float32 at least 0.999 on any
    text); "int8" is lossy. `threads` defaults to the CPUs this process may use. `model` names the
    vectors; None: the directory's or the hub's name. Texts of all calling threads share the batches.
    """

    name = "onnx"
    # One call, whatever its size: the engine cuts it better than a list in input order can be cut.
    max_inputs = sys.maxsize
    counts_exactly = True

    def __init__(
        self,
        source: str | None = None,
        *,
        cache_dir: Path,
        precision: Precision = "auto",
        threads: int | None = None,
        model: str | None = None,
    ) -> None:
        if precision not in {"auto", "fp32", "int8"}:
            raise ConfigurationError(f"ONNX_PRECISION: {precision} is not one of auto, fp32, int8")
        if threads is not None and threads < 1:
            raise ConfigurationError("the number of threads must be at least 1")
        files = find_model(source)
        super().__init__(width=files.dimensions)
        self._name = model or files.name
        self._max_tokens = files.max_tokens
        self._engine = _Engine(files, GraphCache(cache_dir), precision, threads or _usable_cpus())

    def __repr__(self) -> str:
        return f"OnnxProvider(model={self._name!r})"

    def describe(self, deadline: Deadline | None = None) -> EmbeddingModel:
        """The model; its width is found by embedding a word where the files do not state it."""
        return EmbeddingModel(
            self._name, self.name, self._width or self._learn_width(deadline), max_tokens=self._max_tokens
        )

    @property
    def engine(self) -> str:
        """What computes, at which precision, on how many streams: `openvino bf16 x2`. Loads the model."""
        return self._engine.running().label

    @property
    def loaded(self) -> bool:
        """Whether the next text is answered without loading the model first."""
        return self._engine.is_running

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens that the model reads of each text, exact: no more than `spec.max_tokens`, special tokens included."""
        return [len(ids) for ids in self._engine.encoder.encode(texts).ids]

    def close(self) -> None:
        """End the threads; calls that wait, and later ones, raise ProviderError."""
        self._engine.close()

    def _request(self, inputs: Sequence[str], timeout: float | None = None) -> WireAnswer:
        # No timeout: a model in this process cannot be away, and the time it takes is the work itself.
        encoder = self._engine.encoder
        parts: list[Encoded] = []

        def encode_parts() -> Iterator[list[Tokens]]:
            for start in range(0, len(inputs), PART):
                parts.append(encoder.encode(inputs[start : start + PART]))
                yield parts[-1].ids

        rows = self._engine.running().pool.run(encode_parts())
        return WireAnswer(
            vectors=np.stack(rows) if rows else np.empty((0, self._width or 0), dtype=np.float32),
            tokens=sum(part.tokens for part in parts),
            truncated=sum(part.truncated for part in parts),
        )


@dataclass(frozen=True, slots=True)
class _Running:
    pool: StreamPool
    label: str


class _Engine:
    """The loaded model of one provider and its copies; loaded at first use, anew in a forked child."""

    def __init__(self, files: OnnxModel, cache: GraphCache, precision: Precision, threads: int) -> None:
        self._files = files
        self._cache = cache
        self._precision = precision
        self._threads = threads
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._running: _Running | None = None
        self._closed = False
        # A session whose threads stayed in the parent hangs when it is destroyed: it is kept instead.
        self._left_behind: list[_Running] = []

    @property
    def is_running(self) -> bool:
        return self._running is not None and self._process == os.getpid() and not self._closed

    @cached_property
    def encoder(self) -> TokenEncoder:
        return TokenEncoder(self._files.tokenizer, self._files.max_tokens)

    def running(self) -> _Running:
        with self._lock:
            if self._closed:
                raise ProviderError("the embedding engine was closed")
            if self._running and self._process != os.getpid():
                self._left_behind.append(self._running)
                self._running = None
            if self._running is None:
                self._process = os.getpid()
                self._running = self._start()
                # Also at the end of the interpreter: a stream must not be in the middle of a batch then.
                weakref.finalize(self, self._running.pool.close)
            return self._running

    def close(self) -> None:
        with self._lock:
            self._closed = True
            running = self._running
        if running:
            running.pool.close()

    def _start(self) -> _Running:
        session, label = self._open_session()
        forward = _forward_of(session, self._files)
        return _Running(StreamPool(forward, self._threads), f"{label} x{self._threads}")

    def _open_session(self) -> tuple[Any, str]:
        graph = self._graph()
        try:
            return _open_session(graph, self._precision, self._threads)
        except _UnreadableGraph as error:
            if not (isinstance(graph, Path) and graph != self._files.graph):
                raise ConfigurationError(f"ONNX_MODEL: {self._files.graph} cannot be loaded: {error}") from error
        # Of the right size, yet broken: once more, from the weights.
        self._cache.forget(graph)
        return _open_session(self._graph(), self._precision, self._threads)

    def _graph(self) -> Path | bytes:
        files = self._files
        if self._precision == "int8":
            source = files.graph or files.weights
            assert source is not None
            ingredients = f"{BUILDER_VERSION} int8 {source.resolve()} {fingerprint(source)} {files.pooling}"
            return self._cache.get(
                f"{files.name}-int8", ingredients, lambda: quantize_graph(_bytes_of(self._full_graph()))
            )
        return self._full_graph()

    def _full_graph(self) -> Path | bytes:
        files = self._files
        if files.graph:
            return files.graph
        assert files.weights is not None
        weights = files.weights
        config = json.dumps(files.config, sort_keys=True)
        ingredients = f"{BUILDER_VERSION} {weights.resolve()} {fingerprint(weights)} {files.pooling} {config}"
        return self._cache.get(
            f"{files.name}-fp32", ingredients, lambda: build_graph(files.config, read_weights(weights), files.pooling)
        )


class _UnreadableGraph(Exception):
    """onnxruntime does not accept the file."""


def _open_session(graph: Path | bytes, precision: Precision, threads: int) -> tuple[Any, str]:
    """A session that any number of threads may run at once, each on one core, and what it is."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(LOG_SEVERITY)
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_SEVERITY
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = str(graph) if isinstance(graph, Path) else graph

    def opened(providers: list[Any]) -> Any:
        try:
            return onnxruntime.InferenceSession(model, options, providers=providers)
        except Exception as error:
            # Its exceptions share no base class but Exception.
            raise _UnreadableGraph(f"{type(error).__name__}: {str(error)[:200]}") from error

    # OpenVINO would compute an int8 graph of ours in float32.
    if precision != "int8" and "OpenVINOExecutionProvider" in onnxruntime.get_available_providers():
        bfloat16 = precision == "auto" and _has_bfloat16()
        settings = {
            "NUM_STREAMS": str(threads),
            "INFERENCE_NUM_THREADS": str(threads),
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        }
        openvino = {"device_type": "CPU", "load_config": json.dumps({"CPU": settings})}
        session = opened([("OpenVINOExecutionProvider", openvino)])
        # onnxruntime falls back by itself, in silence, where OpenVINO cannot be set up.
        if "OpenVINOExecutionProvider" in session.get_providers():
            return session, "openvino bf16" if bfloat16 else "openvino fp32"
    return opened(["CPUExecutionProvider"]), f"onnxruntime {'int8' if precision == 'int8' else 'fp32'}"


def _forward_of(session: Any, files: OnnxModel) -> Callable[[Tokens, Tokens], Vectors]:
    inputs = {value.name for value in session.get_inputs()}
    unknown = inputs - {"input_ids", "attention_mask", "token_type_ids"}
    if unknown:
        raise ConfigurationError(
            f"ONNX_MODEL: {files.graph} wants inputs that are not known: {', '.join(sorted(unknown))}"
        )
    outputs = [value.name for value in session.get_outputs()]
    output = "sentence_embedding" if "sentence_embedding" in outputs else outputs[0]

    def forward(ids: Tokens, mask: Tokens) -> Vectors:
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        try:
            (answer,) = session.run([output], {name: value for name, value in feed.items() if name in inputs})
        except Exception as error:
            # As above; most likely out of memory.
            raise ProviderError(f"the embedding engine failed: {type(error).__name__}") from error
        vectors: Vectors = np.asarray(answer, dtype=np.float32)
        if vectors.ndim != 2:
            vectors = _pooled(vectors, mask, files.pooling)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Vectors = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
        return unit

    return forward


def _pooled(answer: Vectors, mask: Tokens, pooling: str) -> Vectors:
    """The states of each token, n x length x d, pooled as the model's configuration says."""
    if answer.ndim != 3:
        raise ProviderContractError(
            f"the model's output has {answer.ndim} dimensions; it must be vectors or token states"
        )
    if pooling == "cls":
        return answer[:, 0]
    total: Vectors = np.einsum("nld,nl->nd", answer, mask.astype(np.float32))
    return total


def _bytes_of(graph: Path | bytes) -> bytes:
    return graph.read_bytes() if isinstance(graph, Path) else graph


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; emulated, it is slower than float32."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return not BFLOAT16_FLAGS.isdisjoint(flags.split())
