"""Tests that a repeated query costs no provider call, in this process or, with Redis, in another."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from shared.cache import Cache, RedisCache
from shared.database.base import Database
from shared.embedding.model_providers import ModelProviders
from shared.errors import ConfigurationError
from shared.search.search import SearchService
from tests.conftest import missing_tool
from tests.fake_provider import FakeProvider


@pytest.fixture
def redis_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SecretStr]:
    """A real redis-server on a unix socket, ended by its process."""
    if shutil.which("redis-server") is None:
        missing_tool(request, "needs a real Redis: apt-get install -y redis-server")
    socket = tmp_path / "redis.sock"
    process = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.02)
        yield SecretStr(f"unix://{socket}")
    finally:
        process.terminate()
        process.wait(10)


class NoDatabase(Database):
    """A database for tests that only embed the query: nothing calls it."""

    def _call(self, function: str, arguments: dict[str, Any]) -> list[Any]:
        raise NotImplementedError

    def close(self) -> None: ...


def vector(cache: Cache, provider: FakeProvider, query: str) -> str:
    return SearchService(NoDatabase(), ModelProviders(lambda: provider), cache).query_vector(provider.spec, query)


def test_a_repeated_query_costs_no_call(provider: FakeProvider) -> None:
    cache = Cache()
    first = vector(cache, provider, "gain staging")
    assert vector(cache, provider, "gain staging") == first
    assert provider.wire.texts == ["gain staging"]


def test_another_model_has_its_own_vectors() -> None:
    cache = Cache()
    assert vector(cache, FakeProvider("a", 4), "kick") != vector(cache, FakeProvider("b", 8), "kick")


def test_the_cache_is_bounded(provider: FakeProvider) -> None:
    cache = Cache(size=2)
    for query in ("one", "two", "three", "one"):
        vector(cache, provider, query)
    assert provider.wire.texts == ["one", "two", "three", "one"]


def test_a_cached_query_expires(provider: FakeProvider) -> None:
    cache = Cache(seconds=0)
    vector(cache, provider, "one")
    vector(cache, provider, "one")
    assert provider.wire.texts == ["one", "one"]


def test_processes_share_their_queries_through_redis(redis_url: SecretStr, provider: FakeProvider) -> None:
    first, second = RedisCache(redis_url), RedisCache(redis_url)
    try:
        known = vector(Cache(first), provider, "sidechain")
        assert vector(Cache(second), provider, "sidechain") == known
    finally:
        first.close()
        second.close()
    assert provider.wire.texts == ["sidechain"]


def test_redis_contains_no_query_in_plain_text(redis_url: SecretStr, provider: FakeProvider) -> None:
    cache = RedisCache(redis_url)
    try:
        vector(Cache(cache), provider, "a private question")
        keys = cache._redis.keys("*")
    finally:
        cache.close()
    assert len(keys) == 1
    assert "private" not in keys[0]


def test_a_search_works_while_redis_is_down(
    tmp_path: Path, provider: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    cache = RedisCache(SecretStr(f"unix://{tmp_path}/missing.sock?password=hush"))
    try:
        assert vector(Cache(cache), provider, "reverb")
        assert vector(Cache(cache), provider, "delay")
    finally:
        cache.close()
    assert caplog.text.count("cannot be reached") == 1, "after a failure it must be left alone for a while"
    assert "hush" not in caplog.text + repr(cache)


def test_an_invalid_address_names_the_setting() -> None:
    with pytest.raises(ConfigurationError, match="REDIS_URL"):
        RedisCache(SecretStr("nonsense"))
