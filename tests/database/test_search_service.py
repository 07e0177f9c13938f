"""Tests the search service: a repeated query is cached, and full-text search answers when the provider is down."""

import threading

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.collection import Collection
from shared.embedding.model_providers import ModelProviders
from shared.errors import ConfigurationError, InvalidRequest, NotFound, ProviderUnavailable
from shared.models import SCORES
from shared.search.search import SearchService
from tests.database.rows import Connection, add, embed_all
from tests.fake_provider import FakeProvider


@pytest.fixture
def service(owner: Connection, work: Collection, database: PostgresDatabase, provider: FakeProvider) -> SearchService:
    add(owner, "gain staging before the compressor", "reverb gives space to a voice", "a jazz ballad in slow four")
    embed_all(work, provider)
    provider.wire.requests.clear()
    return SearchService(database, ModelProviders(lambda: provider))


def test_hits_come_with_every_part_of_their_score(service: SearchService) -> None:
    result = service.search("music_knowledge", "space and reverb")
    assert not result.degraded
    best = result.hits[0]
    assert best.row["content"] == "reverb gives space to a voice"
    assert best.score == pytest.approx(0.3 * (best.full_text_score or 0) + 0.7 * (best.semantic_score or 0))
    assert (best.full_text_rank, best.semantic_rank) == (1, 1)
    assert set(best.row) == {"id", "topic", "category", "content", *SCORES}


def test_a_repeated_query_costs_one_call(service: SearchService, provider: FakeProvider) -> None:
    for _ in range(3):
        service.search("music_knowledge", "a slow ballad")
    assert provider.wire.requests == [["a slow ballad"]]
    service.search("music_knowledge", "a fast one")
    assert len(provider.wire.requests) == 2


def test_a_repeated_query_starts_no_thread(service: SearchService, monkeypatch: pytest.MonkeyPatch) -> None:
    first = service.search("music_knowledge", "a quiet waltz")

    def refuse(thread: threading.Thread) -> None:
        raise AssertionError(f"{thread.name} was started")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert service.search("music_knowledge", "a quiet waltz").hits == first.hits


def test_a_missing_model_of_a_collection_is_cached_too(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(owner, *(f"reverb number {number}" for number in range(5)))
    read, looks = Collection.collection_models, []
    monkeypatch.setattr(Collection, "collection_models", lambda queue: looks.append(1) or read(queue))
    service = SearchService(database, ModelProviders(lambda: provider))
    for _ in range(3):
        assert len(service.search("music_knowledge", "reverb", match_count=5).hits) == 5
    assert len(looks) == 1


def test_a_failed_call_is_not_cached(service: SearchService, provider: FakeProvider) -> None:
    provider.wire.down = ProviderUnavailable("the provider is down")
    degraded = service.search("music_knowledge", "reverb")
    assert degraded.degraded
    assert [hit.row["content"] for hit in degraded.hits] == ["reverb gives space to a voice"]
    assert degraded.hits[0].semantic_rank is None
    provider.wire.down = None
    assert not service.search("music_knowledge", "reverb").degraded


class Maker:
    """Creates the provider, or raises an error."""

    def __init__(self, provider: FakeProvider) -> None:
        self.provider = provider
        self.broken = True
        self.calls = 0

    def __call__(self) -> FakeProvider:
        self.calls += 1
        if self.broken:
            raise ConfigurationError("ONNX_MODEL: nothing is there")
        return self.provider


def test_a_provider_that_could_not_be_created_is_created_later(
    service: SearchService, database: PostgresDatabase, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.embedding.model_providers.RETRY_SECONDS", 0)
    make = Maker(provider)
    service = SearchService(database, ModelProviders(make))
    assert make.calls == 0, "a full-text search needs no provider"
    degraded = service.search("music_knowledge", "reverb")
    assert (degraded.degraded, len(degraded.hits)) == (True, 1)
    make.broken = False
    assert not service.search("music_knowledge", "reverb").degraded


def test_creating_a_failing_provider_is_not_repeated_for_every_query(
    service: SearchService, database: PostgresDatabase, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.embedding.model_providers.RETRY_SECONDS", 600)
    make = Maker(provider)
    service = SearchService(database, ModelProviders(make))
    for _ in range(5):
        assert service.search("music_knowledge", "reverb").degraded
    assert make.calls == 1


def test_a_provider_is_looked_up_once(
    service: SearchService, database: PostgresDatabase, provider: FakeProvider
) -> None:
    make = Maker(provider)
    make.broken = False
    service = SearchService(database, ModelProviders(make))
    for query in ("reverb", "gain", "ballad"):
        assert not service.search("music_knowledge", query).degraded
    assert make.calls == 1


def test_before_the_first_backfill_a_search_is_full_text_only(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    add(owner, "gain staging")
    result = SearchService(database, ModelProviders(lambda: provider)).search("music_knowledge", "gain")
    assert [hit.row["content"] for hit in result.hits] == ["gain staging"]


def test_an_unsearchable_collection_is_named(service: SearchService) -> None:
    with pytest.raises(NotFound, match=r"'queue'.*music_knowledge"):
        service.search("queue", "x")
    with pytest.raises(InvalidRequest, match=r"'owner'.*category"):
        service.search("music_knowledge", "x", filters={"owner": "me"})
