"""Tests the objects that the settings choose: valid widths, one Redis client, names of shortened models."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.errors import ConfigurationError
from shared.models import shortened_model_name, split_model_name
from shared.settings import Settings, load_settings
from shared.wiring import get_answer_cache, get_provider, get_query_cache


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
    assert get_query_cache(settings)._shared is get_answer_cache(settings)._shared


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("text-embedding-3-small@512", ("text-embedding-3-small", 512)),
        ("text-embedding-3-small", ("text-embedding-3-small", None)),
        ("owner@host/model", ("owner@host/model", None)),
    ],
)
def test_a_width_is_part_of_a_shortened_models_name(name: str, parts: tuple[str, int | None]) -> None:
    assert split_model_name(name) == parts
    assert shortened_model_name(*parts) == name
