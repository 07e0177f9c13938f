"""Embeds texts in this process with onnxruntime, and with OpenVINO if it is installed."""

import json
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from shared.errors import ConfigurationError, ProviderContractError, ProviderError
from shared.models import AS_KNOWN, EmbeddingModel, InputKind, InputRules, Vectors
from shared.providers.answers import WireAnswer
from shared.providers.base import EmbeddingProvider
from shared.providers.onnx.bert_graph import BUILDER_VERSION, build_graph, read_weights
from shared.providers.onnx.graph_cache import GraphCache, fingerprint
from shared.providers.onnx.int8_graph import quantize_graph
from shared.providers.onnx.model import OnnxModel, find_model
from shared.providers.onnx.stream_pool import CLOSED, StreamPool, Tokens
from shared.providers.onnx.token_encoder import Encoded, TokenEncoder

Precision = Literal["auto", "fp32", "int8"]

# The number of texts that are tokenized together, while the streams compute earlier texts.
PART = 512
# onnxruntime's errors are raised, so it must not print them too. (Level 3 prints errors, 4 only fatal ones.)
LOG_SEVERITY = 4
# CPUs with one of these flags compute bfloat16. It is twice as fast there as float32, and every vector has a cosine of at
# least 0.9998 to the vector of float32.
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


class OnnxProvider(EmbeddingProvider):
    """A BERT-like sentence encoder on this machine's CPU; by default all-MiniLM-L6-v2, 384 dimensions.

    `source` is a directory, a hub id or None, see `find_model`; built graphs are kept in `cache_dir`. `precision` "auto"
    chooses the fastest precision of this CPU whose vectors have a cosine of at least 0.999 to those of float32 on any
    text; "int8" is faster and less exact. The default of `threads` is the number of CPUs that this process may use. A
    batch may contain texts of several calling threads. The model is loaded at first use, and again in a forked child.
    """

    name = "onnx"
    # No limit: StreamPool forms batches by length, which are faster than batches in the order of the input.
    max_inputs = sys.maxsize
    counts_exactly = True

    def __init__(
        self,
        source: str | None = None,
        *,
        cache_dir: Path,
        precision: Precision = "auto",
        threads: int | None = None,
        rules: InputRules = AS_KNOWN,
    ) -> None:
        if precision not in {"auto", "fp32", "int8"}:
            raise ConfigurationError(f"ONNX_PRECISION: {precision} is not one of auto, fp32, int8")
        if threads is not None and threads < 1:
            raise ConfigurationError("the number of threads must be at least 1")
        self._files = files = find_model(source)
        declared = EmbeddingModel(files.name, self.name, files.dimensions, max_tokens=files.max_tokens)
        super().__init__(declared, rules=rules)
        self._cache = GraphCache(cache_dir)
        self._precision = precision
        self._threads = threads or _usable_cpus()
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._pool: StreamPool | None = None
        self._label = ""
        self._closed = False
        # A forked child keeps the session of its parent here: the session's threads do not exist in the child, so
        # destroying it would hang.
        self._left_behind: list[StreamPool] = []

    def __repr__(self) -> str:
        return f"OnnxProvider(model={self.model!r})"

    @property
    def engine(self) -> str:
        """The runtime, precision and number of streams, such as `openvino bf16 x2`. Loads the model."""
        self._running()
        return self._label

    @property
    def loaded(self) -> bool:
        """Whether the model is loaded."""
        return self._pool is not None and self._process == os.getpid() and not self._closed

    @cached_property
    def encoder(self) -> TokenEncoder:
        """The model's tokenizer."""
        return TokenEncoder(self._files.tokenizer, self._files.max_tokens)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The exact number of tokens that the model reads of each text: at most `spec.max_tokens`, with special tokens."""
        return [len(ids) for ids in self.encoder.encode(texts).ids]

    def close(self) -> None:
        """End the threads. Waiting and later calls raise ProviderError."""
        with self._lock:
            self._closed = True
            pool = self._pool
        if pool:
            pool.close()

    def _request(self, inputs: Sequence[str], timeout: float | None = None, kind: InputKind = "document") -> WireAnswer:
        # The timeout is not used: a model in this process is always reachable, and all its time is computing time.
        encoder = self.encoder
        parts: list[Encoded] = []

        def encode_parts() -> Iterator[list[Tokens]]:
            for start in range(0, len(inputs), PART):
                parts.append(encoder.encode(inputs[start : start + PART]))
                yield parts[-1].ids

        vectors = self._running().compute(encode_parts())
        cut = [PART * number + place for number, part in enumerate(parts) for place in part.cut]
        return WireAnswer(np.stack(vectors), sum(part.tokens for part in parts), cut)

    def _running(self) -> StreamPool:
        with self._lock:
            if self._closed:
                raise ProviderError(CLOSED)
            if self._pool and self._process != os.getpid():
                self._left_behind.append(self._pool)
                self._pool = None
            if self._pool is None:
                self._process = os.getpid()
                session, label = self._session()
                self._pool = StreamPool(_forward_of(session, self._files), self._threads)
                self._label = f"{label} x{self._threads}"
                # Close the pool also when the interpreter exits, because no stream may compute a batch at that time.
                weakref.finalize(self, self._pool.close)
            return self._pool

    def _session(self) -> tuple[Any, str]:
        graph = self._graph()
        try:
            return _open_session(graph, self._precision, self._threads)
        except ConfigurationError:
            if isinstance(graph, bytes) or graph == self._files.source:
                raise
        # The cached file has the right size but is broken: build it again from the weights.
        self._cache.forget(graph)
        return _open_session(self._graph(), self._precision, self._threads)

    def _graph(self) -> Path | bytes:
        """The graph to load: the model's own file, or one that is built from it and cached."""
        files = self._files
        made_of = f"{files.source.resolve()} {fingerprint(files.source)} {files.pooling}"

        def full() -> Path | bytes:
            if files.source.suffix == ".onnx":
                return files.source
            config = json.dumps(files.config, sort_keys=True)
            return self._cache.get(
                f"{files.name}-fp32",
                f"{BUILDER_VERSION} {made_of} {config}",
                lambda: build_graph(files.config, read_weights(files.source), files.pooling),
            )

        def small() -> bytes:
            graph = full()
            return quantize_graph(graph.read_bytes() if isinstance(graph, Path) else graph)

        if self._precision != "int8":
            return full()
        return self._cache.get(f"{files.name}-int8", f"{BUILDER_VERSION} int8 {made_of}", small)


def _open_session(graph: Path | bytes, precision: Precision, threads: int) -> tuple[Any, str]:
    """Open a session that any number of threads may use at once, each on one core. Returns it with its description."""
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
            # onnxruntime's exceptions have no common base class but Exception.
            file = graph if isinstance(graph, Path) else "the built graph"
            said = f"{type(error).__name__}: {str(error)[:200]}"
            raise ConfigurationError(f"ONNX_MODEL: {file} cannot be loaded: {said}") from error

    # OpenVINO is not used for "int8", because it would compute the 8-bit graph in float32.
    if precision != "int8" and "OpenVINOExecutionProvider" in onnxruntime.get_available_providers():
        bfloat16 = precision == "auto" and _has_bfloat16()
        settings = {
            "NUM_STREAMS": str(threads),
            "INFERENCE_NUM_THREADS": str(threads),
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        }
        openvino = {"device_type": "CPU", "load_config": json.dumps({"CPU": settings})}
        session = opened([("OpenVINOExecutionProvider", openvino)])
        # If OpenVINO cannot be set up, onnxruntime falls back without an error.
        if "OpenVINOExecutionProvider" in session.get_providers():
            return session, "openvino bf16" if bfloat16 else "openvino fp32"
    return opened(["CPUExecutionProvider"]), f"onnxruntime {'int8' if precision == 'int8' else 'fp32'}"


def _forward_of(session: Any, files: OnnxModel) -> Callable[[Tokens, Tokens], Vectors]:
    inputs = {value.name for value in session.get_inputs()}
    if unknown := inputs - {"input_ids", "attention_mask", "token_type_ids"}:
        names = ", ".join(sorted(unknown))
        raise ConfigurationError(f"ONNX_MODEL: {files.source} needs inputs that are not supported: {names}")
    outputs = [value.name for value in session.get_outputs()]
    output = "sentence_embedding" if "sentence_embedding" in outputs else outputs[0]

    def forward(ids: Tokens, mask: Tokens) -> Vectors:
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        try:
            (answer,) = session.run([output], {name: value for name, value in feed.items() if name in inputs})
        except Exception as error:
            # onnxruntime's exceptions have no common base class here either. The usual cause is a lack of memory.
            raise ProviderError(f"the embedding engine failed: {type(error).__name__}") from error
        vectors: Vectors = np.asarray(answer, dtype=np.float32)
        if vectors.ndim != 2:
            vectors = _pooled(vectors, mask, files.pooling)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Vectors = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
        return unit

    return forward


def _pooled(answer: Vectors, mask: Tokens, pooling: str) -> Vectors:
    """Pool the states of the tokens (n x length x d) as the model's configuration says."""
    if answer.ndim != 3:
        raise ProviderContractError(
            f"the model's output has {answer.ndim} dimensions; it must be vectors or token states"
        )
    if pooling == "cls":
        return answer[:, 0]
    total: Vectors = np.einsum("nld,nl->nd", answer, mask.astype(np.float32))
    return total


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_bfloat16() -> bool:
    """Whether the CPU can multiply bfloat16 numbers. Emulated bfloat16 is slower than float32."""
    try:
        return not BFLOAT16_FLAGS.isdisjoint(Path("/proc/cpuinfo").read_text("utf-8").split())
    except OSError:
        return False
