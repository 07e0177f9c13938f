"""Fixtures that run the contract on each provider: with the protocol server, and with --live on real servers."""

import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from shared.providers.base import EmbeddingProvider
from shared.providers.ollama.provider import OllamaProvider
from shared.providers.openai.provider import OpenAIProvider
from shared.retry import Retrier, RetryPolicy
from tests.protocol_server import ProtocolServer

Connect = Callable[..., EmbeddingProvider]

SIMULATED = ["openai", "ollama"]
# The environment variables that each live run needs; all others keep their defaults.
LIVE = {"openai-live": "OPENAI_API_KEY", "ollama-live": "OLLAMA_URL"}

FAST = RetryPolicy(max_attempts=6, max_seconds=20, base_wait=0.005, max_wait=0.02)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "provider" in metafunc.fixturenames:
        live = metafunc.config.getoption("--live", default=False)
        kinds = [*SIMULATED, *(kind for kind, variable in LIVE.items() if live and os.environ.get(variable))]
        metafunc.parametrize("provider", kinds, indirect=True)


@pytest.fixture
def api_key() -> str:
    return secrets.token_urlsafe(24)


@pytest.fixture
def server(api_key: str) -> Iterator[ProtocolServer]:
    with ProtocolServer(api_key=api_key) as running:
        yield running


@pytest.fixture
def connect(server: ProtocolServer, api_key: str) -> Iterator[Connect]:
    """A function that creates a provider for the protocol server; the providers are closed at the end."""
    made: list[EmbeddingProvider] = []

    def make(kind: str, **options: Any) -> EmbeddingProvider:
        options.setdefault("retrier", Retrier(FAST))
        provider: EmbeddingProvider
        if kind == "openai":
            options.setdefault("api_key", SecretStr(api_key))
            options.setdefault("base_url", server.openai_url)
            provider = OpenAIProvider(**options)
        else:
            options.setdefault("url", server.url)
            provider = OllamaProvider(**options)
        made.append(provider)
        return provider

    yield make
    for provider in made:
        provider.close()


@pytest.fixture
def provider(request: pytest.FixtureRequest, connect: Connect) -> Iterator[EmbeddingProvider]:
    """Each provider in turn, with its defaults."""
    kind: str = request.param
    if kind in SIMULATED:
        yield connect(kind)
        return
    real: EmbeddingProvider
    if kind == "openai-live":
        real = OpenAIProvider(
            api_key=SecretStr(os.environ["OPENAI_API_KEY"]),
            model=os.environ.get("OPENAI_EMBEDDING_MODEL", "text-embedding-3-small"),
            base_url=os.environ.get("OPENAI_BASE_URL"),
        )
    else:
        real = OllamaProvider(
            url=os.environ["OLLAMA_URL"], model=os.environ.get("OLLAMA_EMBEDDING_MODEL", "nomic-embed-text")
        )
    yield real
    real.close()
