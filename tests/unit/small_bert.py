"""A BERT of two layers with random weights, written as a model folder, and its computation in numpy."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

Floats = NDArray[np.float64]
Weights = dict[str, NDArray[np.float32]]

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [
    "a",
    "slow",
    "jazz",
    "ballad",
    "in",
    "six",
    "eight",
    "with",
    "brushes",
    "and",
    "an",
    "upright",
    "bass",
    "##s",
    "##ing",
]
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 24,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
    "layer_norm_eps": 1e-3,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "vocab_size": len(SPECIAL) + len(WORDS),
}
MAX_TOKENS = 16


def random_weights(config: dict[str, Any] = CONFIG, seed: int = 3) -> Weights:
    """Weights large enough that every part of the network shows in the result."""
    random = np.random.default_rng(seed)
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}."
        norms += [name + "attention.output.LayerNorm", name + "output.LayerNorm"]
        linear = {f"attention.self.{part}": (hidden, hidden) for part in ("query", "key", "value")}
        linear |= {"attention.output.dense": (hidden, hidden)}
        linear |= {"intermediate.dense": (wide, hidden), "output.dense": (hidden, wide)}
        for part, shape in linear.items():
            shapes[f"{name}{part}.weight"] = shape
            shapes[f"{name}{part}.bias"] = shape[:1]
    for norm in norms:
        shapes[norm + ".weight"] = shapes[norm + ".bias"] = (hidden,)
    return {name: random.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def reference(weights: Weights, ids: list[int], pooling: str, config: dict[str, Any] = CONFIG) -> Floats:
    """The sentence vector of one sequence, computed in float64 as in the BERT paper."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
    heads = config["num_attention_heads"]

    def linear(name: str, value: Floats) -> Floats:
        return value @ tensors[name + ".weight"].T + tensors[name + ".bias"]

    def norm(name: str, value: Floats) -> Floats:
        centred = value - value.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + config["layer_norm_eps"])
        return scaled * tensors[name + ".weight"] + tensors[name + ".bias"]

    hidden = tensors["embeddings.word_embeddings.weight"][ids]
    hidden = hidden + tensors["embeddings.position_embeddings.weight"][: len(ids)]
    hidden = norm("embeddings.LayerNorm", hidden + tensors["embeddings.token_type_embeddings.weight"][0])
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}."
        parts = [linear(f"{name}attention.self.{part}", hidden) for part in ("query", "key", "value")]
        mixed = []
        for query, key, value in zip(*(np.split(part, heads, axis=1) for part in parts), strict=True):
            scores = np.exp(query @ key.T / math.sqrt(query.shape[1]))
            mixed.append(scores / scores.sum(axis=1, keepdims=True) @ value)
        attended = linear(name + "attention.output.dense", np.concatenate(mixed, axis=1))
        hidden = norm(name + "attention.output.LayerNorm", hidden + attended)
        inner = linear(name + "intermediate.dense", hidden)
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        hidden = norm(name + "output.LayerNorm", hidden + linear(name + "output.dense", inner))
    pooled = hidden[0] if pooling == "cls" else hidden.mean(axis=0)
    return pooled / np.linalg.norm(pooled)


def small_tokenizer() -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    return tokenizer


def write_model(
    directory: Path, *, pooling: str = "mean_tokens", weights: Weights | None = None, **config: Any
) -> Path:
    """Write a model folder in the format of sentence-transformers; `config` changes the encoder's configuration."""
    (directory / "1_Pooling").mkdir(parents=True, exist_ok=True)
    save_file(weights or random_weights(), directory / "model.safetensors")
    small_tokenizer().save(str(directory / "tokenizer.json"))
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    files = {
        "config.json": CONFIG | config,
        "sentence_bert_config.json": {"max_seq_length": MAX_TOKENS},
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": CONFIG["hidden_size"], f"pooling_mode_{pooling}": True},
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))
    return directory
