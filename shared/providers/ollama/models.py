"""Lists width, token limit and prefixes of the embedding models in Ollama's library, as their makers document them.

Widths and prefixes are from the model cards (nomic-ai, mixedbread.ai, Snowflake, BAAI, sentence-transformers). Token
limits are the context windows in ollama.com/library and the model files. For nomic-embed-text the parameters say 8192
tokens, but its weights read only 2048, and the server cuts a text there.
"""

from shared.models import EmbeddingModel

_NOMIC = ("search_document: ", "search_query: ")
_SEARCH = ("", "Represent this sentence for searching relevant passages: ")
_NONE = ("", "")

# For each model: width, token limit, prefix of documents, prefix of queries.
_KNOWN = {
    "nomic-embed-text": (768, 2048, _NOMIC),
    "nomic-embed-text:v1.5": (768, 2048, _NOMIC),
    "mxbai-embed-large": (1024, 512, _SEARCH),
    "all-minilm": (384, 256, _NONE),
    "bge-m3": (1024, 8192, _NONE),
    "snowflake-arctic-embed": (1024, 512, _SEARCH),
    "snowflake-arctic-embed:22m": (384, 512, _SEARCH),
    "snowflake-arctic-embed:33m": (384, 512, _SEARCH),
    "snowflake-arctic-embed:110m": (768, 512, _SEARCH),
    "snowflake-arctic-embed:137m": (768, 2048, _SEARCH),
    "snowflake-arctic-embed:335m": (1024, 512, _SEARCH),
}


def known_model(name: str) -> EmbeddingModel:
    """Look up a model by its name, with or without a tag.

    Another tag of a known family has the same prefixes, but width 0 and token limit None, because both are unknown.
    """
    name = name.removesuffix(":latest")
    _, _, prefixes = _KNOWN.get(name.partition(":")[0], (0, None, _NONE))
    width, max_tokens, prefixes = _KNOWN.get(name, (0, None, prefixes))
    return EmbeddingModel(name, "ollama", width, *prefixes, max_tokens)
