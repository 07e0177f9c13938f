"""Tests the cache of answers: its key is the version of the data and the caller; Redis shares it."""

import pytest
from pydantic import SecretStr

from shared.cache import Cache, RedisCache
from shared.models import ANON, Caller
from shared.synonyms.service import cache_key
from tests.unit.test_query_cache import redis_url  # noqa: F401 - a fixture


def test_a_cached_answer_is_found_only_under_its_key() -> None:
    cache = Cache()
    cache.put(cache_key("v1", ANON, "search", "sad"), {"hits": [1]})
    assert cache.get(cache_key("v1", ANON, "search", "sad")) == {"hits": [1]}
    others = [
        cache_key("v2", ANON, "search", "sad"),
        cache_key("v1", ANON, "search", "glad"),
        cache_key("v1", ANON, "get", "sad"),
        cache_key("v1", Caller("authenticated", {"sub": "her"}), "search", "sad"),
    ]
    assert [cache.get(key) for key in others] == [None] * 4


def test_the_caller_is_part_of_the_cache_key() -> None:
    claims = [{"sub": "her"}, {"sub": "his"}, {"sub": "her", "org": 1}]
    keys = {cache_key("v", Caller("authenticated", claim), "q") for claim in claims}
    assert len(keys) == 3
    one, other = {"sub": "her", "org": 1}, {"org": 1, "sub": "her"}
    assert cache_key("v", Caller("a", one), "q") == cache_key("v", Caller("a", other), "q")


def test_callers_with_equal_claims_and_different_tokens_share_no_answers() -> None:
    claims = {"sub": "her"}
    callers = [Caller("authenticated", claims, token) for token in (None, "a.valid.one", "a.forged.one")]
    keys = [cache_key("v", caller, "q") for caller in callers]
    assert len(set(keys)) == 3
    assert not any("valid" in key for key in keys)


def test_entries_expire_after_their_lifetime_and_beyond_the_size() -> None:
    cache = Cache(seconds=0)
    cache.put("a", {})
    assert cache.get("a") is None
    small = Cache(size=2)
    for key in "abc":
        small.put(key, {})
    assert [small.get(key) is None for key in "abc"] == [True, False, False]


@pytest.mark.usefixtures("redis_url")
def test_processes_share_their_answers_through_redis(redis_url: SecretStr) -> None:  # noqa: F811
    first, second = RedisCache(redis_url), RedisCache(redis_url)
    try:
        key = cache_key("v1", ANON, "search", "a private question")
        Cache(first).put(key, {"hits": ["sad"]})
        assert Cache(second).get(key) == {"hits": ["sad"]}
        assert Cache(second).get(cache_key("v2", ANON, "search", "a private question")) is None
        assert "private" not in str(first._redis.keys("*"))
    finally:
        first.close()
        second.close()
