"""Tests the objects that the settings choose: valid widths, one Redis client, names of shortened models."""

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.errors import ConfigurationError
from shared.models import EmbeddingModel, InputRules, shortened_model_name, split_model_name
from shared.settings import Settings, load_settings
from shared.wiring import get_cache, get_provider, get_provider_for

PASSAGE = "707ad539"


def settings_with(tmp_path: Path, **given: object) -> Settings:
    return load_settings(tonnetz_data_dir=tmp_path, openai_api_key="none", **given)


@pytest.mark.parametrize(
    ("provider", "model", "width", "can"),
    [
        ("onnx", None, 128, "exactly 384"),
        ("openai", "text-embedding-3-small", 1537, "at most 1536"),
        ("openai", "text-embedding-ada-002", 512, "exactly 1536"),
        ("ollama", "nomic-embed-text", 1024, "at most 768"),
    ],
)
def test_a_width_that_the_model_cannot_have_is_refused_in_one_line(
    tmp_path: Path, provider: str, model: str | None, width: int, can: str
) -> None:
    settings = settings_with(tmp_path, embedding_provider=provider, embedding_model=model, embedding_dimensions=width)
    with pytest.raises(ConfigurationError, match=rf"^EMBEDDING_DIMENSIONS: \S+ has {can} dimensions; [^\n]+$"):
        get_provider(settings)


@pytest.mark.parametrize(
    ("provider", "model", "width"),
    [("onnx", None, 384), ("openai", None, 512), ("openai", "another-one", 3), ("ollama", None, 256)],
)
def test_a_width_that_the_model_supports_is_used(tmp_path: Path, provider: str, model: str | None, width: int) -> None:
    settings = settings_with(tmp_path, embedding_provider=provider, embedding_model=model, embedding_dimensions=width)
    made = get_provider(settings)
    assert made.dimensions == width
    made.close()


def test_all_caches_use_one_redis_client(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, redis_url=SecretStr(f"unix://{tmp_path}/missing.sock"))
    assert get_cache(settings)._shared is get_cache(settings, size=2048)._shared


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("text-embedding-3-small@512", ("text-embedding-3-small", 512, None, None)),
        ("text-embedding-3-small", ("text-embedding-3-small", None, None, None)),
        ("owner@host/model", ("owner@host/model", None, None, None)),
        ("owner/e5#query,passage", ("owner/e5", None, ("query", "passage"), None)),
        ("e5#707ad539", ("e5", None, None, "passage: ")),
        ("e5@64#q,d#707ad539", ("e5", 64, ("q", "d"), "passage: ")),
    ],
)
def test_a_name_says_what_vectors_depend_on(
    name: str, parts: tuple[str, int | None, tuple[str, str] | None, str | None]
) -> None:
    model, width, types, prefix = parts
    assert split_model_name(name) == (model, width, types, prefix is not None)
    declared = EmbeddingModel(shortened_model_name(model, width), "openai", 64, query_prefix="ask: ")
    made = InputRules(document_prefix=prefix, types=types).apply(declared)
    assert (made.name, made.document_prefix, made.query_prefix) == (name, prefix or "", "ask: ")


def test_a_query_prefix_or_the_models_own_document_prefix_changes_no_name() -> None:
    declared = EmbeddingModel("nomic-embed-text", "ollama", 768, "search_document: ", "search_query: ")
    made = InputRules("ask: ", "search_document: ").apply(declared)
    assert made == replace(declared, query_prefix="ask: ")


@pytest.mark.parametrize("provider", ["onnx", "ollama", "openai"])
def test_prefixes_of_the_settings_work_with_every_provider(tmp_path: Path, provider: str) -> None:
    plain = get_provider(settings_with(tmp_path, embedding_provider=provider, embedding_dimensions=None))
    given = {"embedding_query_prefix": "query: ", "embedding_document_prefix": "passage: "}
    settings = settings_with(tmp_path, embedding_provider=provider, **given)
    made = get_provider(settings)
    assert (made.spec.query_prefix, made.spec.document_prefix) == ("query: ", "passage: ")
    assert made.model == f"{plain.model}#{PASSAGE}"
    # This is the provider of rows whose model has another document prefix than the settings, or none.
    assert get_provider_for(plain.spec, settings).spec == plain.spec
    later = settings_with(tmp_path, embedding_provider=provider)
    assert get_provider_for(made.spec, later).spec == replace(made.spec, query_prefix=plain.spec.query_prefix)
    for one in (plain, made):
        one.close()


def test_input_types_come_back_with_the_name(tmp_path: Path) -> None:
    base = {"embedding_provider": "openai", "embedding_model": "e5", "embedding_dimensions": 8}
    made = get_provider(settings_with(tmp_path, **base, embedding_input_types="query, passage"))
    assert made.model == "e5#query,passage"
    again = get_provider_for(made.spec, settings_with(tmp_path, **base))
    assert (again.model, again._rules.types) == (made.model, ("query", "passage"))
    made.close()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"embedding_input_types": "query"}, "EMBEDDING_INPUT_TYPES: must be two words"),
        ({"embedding_input_types": "query,"}, "EMBEDDING_INPUT_TYPES: must be two words"),
        ({"embedding_input_types": "a,b,c"}, "EMBEDDING_INPUT_TYPES: must be two words"),
        (
            {"embedding_input_types": "query,passage", "embedding_provider": "ollama"},
            "is for EMBEDDING_PROVIDER=openai",
        ),
        ({"embedding_query_prefix": "x" * 1001}, "EMBEDDING_QUERY_PREFIX: must have at most 1000 characters"),
    ],
)
def test_prefixes_and_types_that_cannot_be_are_refused_by_name(
    tmp_path: Path, given: dict[str, str], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        settings_with(tmp_path, **{"embedding_provider": "openai", **given})


@pytest.mark.parametrize(
    ("provider", "model", "price", "expected"),
    [
        ("openai", "other", 0.0, (0.0, True)),
        ("openai", "other", None, (0.0, False)),
        ("openai", "text-embedding-3-large", 0.5, (0.13, True)),
        ("ollama", "other", 0.5, (0.0, False)),
    ],
)
def test_another_model_of_the_same_provider_has_the_price_of_the_settings(
    tmp_path: Path, provider: str, model: str, price: float | None, expected: tuple[float, bool]
) -> None:
    base = {"embedding_provider": provider, "embedding_model": "house", "embedding_dimensions": 8}
    settings = settings_with(tmp_path, **base, embedding_price_per_million=price)
    made = get_provider_for(EmbeddingModel(model, "openai", 8), settings)
    assert (made.price_per_million_tokens, made.price_is_known) == expected
    made.close()


def test_another_model_of_ollama_costs_what_the_settings_say(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, embedding_provider="ollama", embedding_price_per_million=0.5)
    made = get_provider_for(EmbeddingModel("other", "ollama", 8), settings)
    assert made.price_per_million_tokens == 0.5
    made.close()
