"""Search as the functions use it: one provider call for a repeated query, words alone when the provider is down."""

import pytest

from shared.database.postgres import PostgresDatabase
from shared.database.queue import EmbeddingQueue
from shared.errors import InvalidRequest, NotFound, ProviderUnavailable
from shared.services.search import SearchService
from tests.database.rows import Connection, add, embed_all
from tests.fake_provider import FakeProvider


@pytest.fixture
def service(
    owner: Connection, work: EmbeddingQueue, database: PostgresDatabase, provider: FakeProvider
) -> SearchService:
    add(owner, "gain staging before the compressor", "reverb gives space to a voice", "a jazz ballad in slow four")
    embed_all(work, provider)
    provider.wire.requests.clear()
    return SearchService(database, provider)


def test_hits_come_with_every_part_of_their_score(service: SearchService) -> None:
    result = service.search("music_knowledge", "space and reverb")
    assert not result.degraded
    best = result.hits[0]
    assert best.row["content"] == "reverb gives space to a voice"
    assert best.score == pytest.approx(0.3 * (best.full_text_score or 0) + 0.7 * (best.semantic_score or 0))
    assert (best.full_text_rank, best.semantic_rank) == (1, 1)
    assert set(best.row) == {"topic", "category", "content"}


def test_a_repeated_query_costs_one_call(service: SearchService, provider: FakeProvider) -> None:
    for _ in range(3):
        service.search("music_knowledge", "a slow ballad")
    assert provider.wire.requests == [["a slow ballad"]]
    service.search("music_knowledge", "a fast one")
    assert len(provider.wire.requests) == 2


def test_a_failed_call_is_not_remembered(service: SearchService, provider: FakeProvider) -> None:
    provider.wire.down = ProviderUnavailable("nobody is there")
    degraded = service.search("music_knowledge", "reverb")
    assert degraded.degraded
    assert [hit.row["content"] for hit in degraded.hits] == ["reverb gives space to a voice"]
    assert degraded.hits[0].semantic_rank is None
    provider.wire.down = None
    assert not service.search("music_knowledge", "reverb").degraded


def test_before_the_first_backfill_words_are_searched(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    add(owner, "gain staging")
    result = SearchService(database, provider).search("music_knowledge", "gain")
    assert [hit.row["content"] for hit in result.hits] == ["gain staging"]


def test_what_cannot_be_searched_is_named(service: SearchService) -> None:
    with pytest.raises(NotFound, match=r"'queue'.*music_knowledge"):
        service.search("queue", "x")
    with pytest.raises(InvalidRequest, match=r"'owner'.*category"):
        service.search("music_knowledge", "x", filters={"owner": "me"})
