"""What the embedding models of Ollama's library need; only what their makers document.

Widths and prefixes: the model cards (nomic-ai, mixedbread.ai, Snowflake, BAAI, sentence-transformers).
Lengths: the context window that ollama.com/library and the model files state. nomic-embed-text asks for
8192 in its parameters, but the server cuts at the 2048 of its weights.
"""

from dataclasses import dataclass

_SEARCH = "Represent this sentence for searching relevant passages: "


@dataclass(frozen=True, slots=True)
class OllamaModel:
    """A model's trained inputs; `dimensions` and `max_tokens` are None where a tag decides them."""

    dimensions: int | None = None
    max_tokens: int | None = None
    document_prefix: str = ""
    query_prefix: str = ""


_NOMIC = OllamaModel(768, 2048, "search_document: ", "search_query: ")

KNOWN_MODELS = {
    "nomic-embed-text": _NOMIC,
    "nomic-embed-text:v1.5": _NOMIC,
    "mxbai-embed-large": OllamaModel(1024, 512, query_prefix=_SEARCH),
    "all-minilm": OllamaModel(384, 256),
    "bge-m3": OllamaModel(1024, 8192),
    "snowflake-arctic-embed": OllamaModel(1024, 512, query_prefix=_SEARCH),
    "snowflake-arctic-embed:22m": OllamaModel(384, 512, query_prefix=_SEARCH),
    "snowflake-arctic-embed:33m": OllamaModel(384, 512, query_prefix=_SEARCH),
    "snowflake-arctic-embed:110m": OllamaModel(768, 512, query_prefix=_SEARCH),
    "snowflake-arctic-embed:137m": OllamaModel(768, 2048, query_prefix=_SEARCH),
    "snowflake-arctic-embed:335m": OllamaModel(1024, 512, query_prefix=_SEARCH),
}


def known_model(name: str) -> OllamaModel:
    """What is known of a model by its name, with or without a tag.

    Another tag of a known family shares its prefixes; its width and length are then unknown.
    """
    if exact := KNOWN_MODELS.get(name.removesuffix(":latest")):
        return exact
    family = KNOWN_MODELS.get(name.partition(":")[0], OllamaModel())
    return OllamaModel(document_prefix=family.document_prefix, query_prefix=family.query_prefix)
