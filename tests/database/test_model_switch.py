"""Tests moving a collection to another model and back during searches."""

import threading

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import INDEX_MIN_ROWS, BackfillOptions, backfill
from shared.embedding.collection import Collection, embedding_coverage
from shared.embedding.estimate import estimate
from shared.embedding.model_providers import ModelProviders
from shared.embedding.model_switch import switch_model
from shared.errors import Conflict, DatabaseRejected, ProviderRejected
from shared.models import EmbeddingModel
from shared.search.search import SearchService
from tests.database.rows import MUSIC, Connection, add
from tests.fake_provider import FakeProvider

ROWS = 60
OPTIONS = BackfillOptions(MUSIC, batch_size=10, workers=2)


@pytest.fixture
def narrow() -> FakeProvider:
    return FakeProvider("narrow", 16)


@pytest.fixture
def wide() -> FakeProvider:
    return FakeProvider("wide", 48)


@pytest.fixture
def embedded(owner: Connection, database: PostgresDatabase, narrow: FakeProvider) -> None:
    add(owner, *(f"take {number} of the song in verse {number % 7}" for number in range(ROWS)))
    assert backfill(database, narrow, OPTIONS).complete


def search_service(database: PostgresDatabase, *providers: FakeProvider) -> SearchService:
    by_model = {provider.model: provider for provider in providers}
    return SearchService(database, ModelProviders(lambda: providers[0], lambda spec: by_model[spec.name]))


def models(database: PostgresDatabase) -> dict[str, int]:
    return next(dict(row.models) for row in embedding_coverage(database) if row.collection == MUSIC)


def test_another_model_is_refused_until_the_collection_is_switched(
    database: PostgresDatabase, embedded: None, narrow: FakeProvider
) -> None:
    same_width = FakeProvider("other", narrow.dimensions)
    with pytest.raises(DatabaseRejected, match=r'"narrow", not "other".*set_collection_model'):
        backfill(database, same_width, OPTIONS)
    assert same_width.wire.requests == [], "nothing may be paid for what cannot be stored"


def test_nothing_moves_to_a_provider_that_does_not_embed_one_text(
    database: PostgresDatabase, owner: Connection, embedded: None, wide: FakeProvider
) -> None:
    wide.wire.down = ProviderRejected("wrong key")
    with pytest.raises(ProviderRejected, match="wrong key"):
        switch_model(database, wide, MUSIC)
    assert len(wide.wire.requests) == 1
    assert [spec.name for spec in Collection(database, MUSIC).collection_models()] == ["narrow"]
    assert owner.execute("select count(*) from embedding.models where name = 'wide'").fetchone() == (0,)
    assert Collection(database, MUSIC).embedding_queue().pending == 0


def test_a_switch_to_a_registered_name_with_another_width_is_refused_before_a_request(
    database: PostgresDatabase, owner: Connection, embedded: None, wide: FakeProvider
) -> None:
    owner.execute("select register_embedding_model('wide', 'fake', 24)")
    with pytest.raises(DatabaseRejected, match='model "wide" is registered with 24 dimensions, not 48'):
        switch_model(database, wide, MUSIC)
    assert wide.wire.requests == []


def test_rows_move_to_the_new_model_and_the_old_one_is_removed(
    database: PostgresDatabase, embedded: None, wide: FakeProvider
) -> None:
    work = Collection(database, MUSIC)
    assert switch_model(database, wide, MUSIC) == ROWS
    assert [spec.name for spec in work.collection_models()] == ["wide", "narrow"]
    outcome = backfill(database, wide, OPTIONS)
    assert (outcome.report.embedded, outcome.complete) == (ROWS, True)
    assert models(database) == {"wide": ROWS}
    assert [spec.name for spec in work.collection_models()] == ["wide"]
    assert work.verify_embeddings() == 0


def test_a_search_during_a_switch_finds_rows_of_both_models(
    database: PostgresDatabase, embedded: None, narrow: FakeProvider, wide: FakeProvider, owner: Connection
) -> None:
    switch_model(database, wide, MUSIC)
    assert backfill(database, wide, BackfillOptions(MUSIC, batch_size=10, limit=ROWS // 2)).report.embedded == ROWS // 2
    assert models(database) == {"narrow": ROWS // 2, "wide": ROWS // 2}
    result = search_service(database, wide, narrow).search(MUSIC, "song verse", match_count=40)
    held = dict(owner.execute("select id::text, embedding_model from music_knowledge").fetchall())
    assert {held[hit.id] for hit in result.hits if hit.semantic_rank is not None} == {"narrow", "wide"}
    assert (len(result.hits), result.degraded) == (40, False)


def test_searches_return_all_rows_throughout_a_switch(
    database: PostgresDatabase, embedded: None, narrow: FakeProvider, wide: FakeProvider
) -> None:
    switch_model(database, wide, MUSIC)
    # The search has a separate provider, because it runs during each request of the backfill's provider.
    service = search_service(database, FakeProvider("wide", wide.dimensions), narrow)
    found: list[tuple[int, bool]] = []

    class Search(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            result = service.search(MUSIC, "song verse", match_count=10)
            found.append((len(result.hits), result.degraded))
            return True

    wide.wire.gate = Search()
    assert backfill(database, wide, OPTIONS).complete
    # The first request is the one text of the switch. There is no search at that time.
    assert len(found) == len(wide.wire.requests) - 1 >= ROWS // 10
    assert set(found) == {(10, False)}


def test_a_search_with_a_cached_model_list_reads_it_again_if_rows_are_missing(
    database: PostgresDatabase, embedded: None, narrow: FakeProvider, wide: FakeProvider
) -> None:
    service = search_service(database, wide, narrow)
    assert len(service.search(MUSIC, "ukulele", match_count=10).hits) == 10
    switch_model(database, wide, MUSIC)
    assert backfill(database, wide, OPTIONS).complete
    # No row contains the word, and no row has a vector of the cached model.
    hits = service.search(MUSIC, "ukulele", match_count=10).hits
    assert {hit.semantic_rank for hit in hits} == set(range(1, 11))


def test_switching_back_embeds_only_the_rows_that_had_moved(
    database: PostgresDatabase, embedded: None, narrow: FakeProvider, wide: FakeProvider
) -> None:
    switch_model(database, wide, MUSIC)
    backfill(database, wide, BackfillOptions(MUSIC, batch_size=10, limit=20))
    sent = len(narrow.wire.texts)
    assert switch_model(database, narrow, MUSIC) == 20
    outcome = backfill(database, narrow, OPTIONS)
    assert (outcome.report.embedded, models(database)) == (20, {"narrow": ROWS})
    assert len(narrow.wire.texts) - sent == 20 + 1, "and the one text of the switch"
    assert outcome.left.pending == 0


def test_a_text_that_changes_during_a_switch_is_embedded_with_the_new_model(
    database: PostgresDatabase, embedded: None, owner: Connection, wide: FakeProvider
) -> None:
    switch_model(database, wide, MUSIC)
    owner.execute("update music_knowledge set content = 'a new take' where content like 'take 3 %'")
    outcome = backfill(database, wide, OPTIONS)
    assert (outcome.report.embedded, models(database)) == (ROWS, {"wide": ROWS})
    assert Collection(database, MUSIC).verify_embeddings() == 0


def test_the_index_of_a_model_is_dropped_with_its_last_row(
    database: PostgresDatabase, embedded: None, owner: Connection, wide: FakeProvider
) -> None:
    old = Collection(database, MUSIC).create_embedding_index()
    switch_model(database, wide, MUSIC)
    backfill(database, wide, BackfillOptions(MUSIC, batch_size=10, limit=20))
    assert owner.execute("select to_regclass(%s)", [old]).fetchone() != (None,)
    backfill(database, wide, OPTIONS)
    assert owner.execute("select to_regclass(%s)", [old]).fetchone() == (None,)


def test_an_index_is_built_only_if_there_are_enough_vectors(
    database: PostgresDatabase, embedded: None, owner: Connection
) -> None:
    assert Collection(database, MUSIC).create_embedding_index(min_rows=INDEX_MIN_ROWS) is None
    work = Collection(database, MUSIC)
    assert work.create_embedding_index(min_rows=ROWS + 1) is None
    assert work.create_embedding_index(min_rows=ROWS)
    assert work.create_embedding_index(min_rows=ROWS) is None


def test_a_run_tells_whether_the_vectors_lack_an_index(
    database: PostgresDatabase, embedded: None, owner: Connection, narrow: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.embedding.backfill.INDEX_MIN_ROWS", ROWS + 1)
    assert not backfill(database, narrow, OPTIONS).left.lacks_index, "there are too few vectors"
    add(owner, "another row")
    assert backfill(database, narrow, OPTIONS).left.lacks_index
    assert not backfill(database, narrow, OPTIONS).left.lacks_index, "the run has embedded nothing"
    assert Collection(database, MUSIC).create_embedding_index()
    add(owner, "one more")
    assert not backfill(database, narrow, OPTIONS).left.lacks_index


def test_registered_prefixes_take_precedence_over_configured_ones(
    database: PostgresDatabase, owner: Connection
) -> None:
    work = Collection(database, MUSIC)
    work.register_embedding_model(EmbeddingModel("fake", "fake", 16, "passage: ", "query: "))
    add(owner, "a song")
    provider = FakeProvider()
    assert backfill(database, provider, OPTIONS).complete
    search_service(database, provider).search(MUSIC, "a tune")
    assert provider.wire.texts == ["passage: a song", "query: a tune"]


def test_an_estimate_counts_what_a_switch_would_embed_and_refuses_another_model_without_one(
    database: PostgresDatabase, embedded: None, wide: FakeProvider
) -> None:
    with pytest.raises(Conflict, match=r'"narrow", not "wide".*--switch-model'):
        estimate(database, wide, MUSIC)
    assert estimate(database, wide, MUSIC, switching=True).rows == ROWS
    assert models(database) == {"narrow": ROWS}


def test_a_collection_of_another_model_is_searched_with_that_model(
    database: PostgresDatabase, embedded: None, narrow: FakeProvider, wide: FakeProvider
) -> None:
    result = search_service(database, wide, narrow).search(MUSIC, "song verse")
    assert not result.degraded
    assert result.hits[0].semantic_rank is not None
    assert wide.wire.requests == []


def test_a_model_without_a_provider_leaves_full_text_search(
    database: PostgresDatabase, embedded: None, wide: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    result = SearchService(database, ModelProviders(lambda: wide)).search(MUSIC, "song verse")
    assert result.degraded
    assert len(result.hits) == 10
    assert "narrow" in caplog.text
