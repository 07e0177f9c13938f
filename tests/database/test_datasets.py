"""Tests embedding, ranking and score updates of datasets."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection
from shared.embedding.model_providers import ModelProviders
from shared.embedding.runs import Runs
from shared.errors import DatabaseRejected
from shared.search.search import SearchService
from tests.database.rows import Connection, embed_all, queued
from tests.fake_provider import FakeProvider


@pytest.fixture
def datasets(database: PostgresDatabase, provider: FakeProvider) -> Collection:
    queue = Collection(database, "datasets")
    queue.register_embedding_model(provider.spec)
    return queue


def add(
    connection: Connection, title: str, description: str = "", *, score: float | None = None, **columns: Any
) -> str:
    """Insert a dataset, by default an enriched one; returns its id."""
    values = {"enrichment_status": "enriched", **columns, "title": title, "description": description}
    names = ", ".join(values)
    places = ", ".join(f"%({name})s" for name in values)
    ((row_id,),) = connection.execute(
        f"insert into datasets ({names}) values ({places}) returning id::text", values
    ).fetchall()
    if score is not None:
        connection.execute("insert into dataset_scores values (%s, %s)", [row_id, score])
    return str(row_id)


def test_only_enriched_and_active_rows_are_embedded(
    owner: Connection, datasets: Collection, provider: FakeProvider
) -> None:
    wanted = add(owner, "Drums", "hits")
    for status in ("pending", "in_progress", "failed"):
        add(owner, "Drums", "hits", enrichment_status=status)
    add(owner, "Drums", "hits", is_active=False)
    assert queued(owner, "datasets") == {wanted}
    assert embed_all(datasets, provider) == 1
    assert owner.execute("select id::text from datasets where is_ready_for_search").fetchall() == [(wanted,)]


def test_the_title_has_double_weight(owner: Connection, datasets: Collection) -> None:
    add(owner, "Drums", "hits")
    (row,) = datasets.claim_embeddings(10, 60)
    assert row.text == "Drums\nDrums\nhits"
    assert owner.execute(
        "select ts_rank('{1,1,1,1}', fts, 'drum') > ts_rank('{1,1,1,1}', fts, 'hit') from datasets"
    ).fetchone() == (True,)


CHANGES = {
    "title": st.sampled_from(["Drums", "Bass"]),
    "description": st.sampled_from(["", "hits", "loops"]),
    "enrichment_status": st.sampled_from(["pending", "enriched", "failed"]),
    "is_active": st.booleans(),
    "embed": st.none(),
    "embedding": st.none(),
}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.sampled_from(list(CHANGES)).flatmap(lambda name: st.tuples(st.just(name), CHANGES[name])), max_size=8
    )
)
def test_a_row_is_ready_if_and_only_if_it_is_active_enriched_and_embedded_with_its_present_text(
    owner: Connection, datasets: Collection, provider: FakeProvider, changes: list[tuple[str, Any]]
) -> None:
    owner.execute("delete from datasets")
    row_id = add(owner, "Drums", "hits")
    row = {"title": "Drums", "description": "hits", "enrichment_status": "enriched", "is_active": True}
    embedded_with: dict[str, Any] | None = None
    for name, value in changes:
        if name == "embed":
            embed_all(datasets, provider)
            wanted = row["is_active"] and row["enrichment_status"] == "enriched"
            embedded_with = dict(row) if wanted else embedded_with
        else:
            owner.execute(f"update datasets set {name} = %s where id = %s", [value, row_id])
            row = {**row, name: value} if name in row else row
            embedded_with = embedded_with if embedded_with == row and name != "embedding" else None
        found = owner.execute("select is_ready_for_search from datasets where id = %s", [row_id]).fetchone()
        assert found == (embedded_with is not None,), (name, value)
    assert datasets.verify_embeddings() == 0


def test_a_text_changed_with_triggers_disabled_is_not_ready(
    owner: Connection, datasets: Collection, provider: FakeProvider
) -> None:
    add(owner, "Drums")
    embed_all(datasets, provider)
    owner.execute("alter table datasets disable trigger user")
    owner.execute("update datasets set title = 'Bass'")
    assert owner.execute("select is_ready_for_search, embedding is not null from datasets").fetchone() == (False, True)


def test_the_score_has_every_part_and_is_their_sum(
    owner: Connection, database: PostgresDatabase, datasets: Collection, provider: FakeProvider
) -> None:
    now = datetime.now(UTC)
    add(owner, "Drum hits", "snares and kicks", score=0.5, published_at=now - timedelta(days=100))
    add(owner, "Drum loops", "breaks", score=1.0, published_at=now + timedelta(days=3))
    add(owner, "Bass lines", "with drums")
    embed_all(datasets, provider)
    search = SearchService(database, ModelProviders(lambda: provider))
    for options in (
        {},
        {"static_weight": 0.3, "decay_weight": 0.05, "half_life_days": 50.0},
        {"static_weight": 0.0, "decay_weight": 0.0},
    ):
        result = search.search("datasets", "drum hits", options=options)
        assert len(result.hits) == 3
        assert [hit.score for hit in result.hits] == sorted((hit.score for hit in result.hits), reverse=True)
        for hit in result.hits:
            age = {"Drum hits": 100.0, "Drum loops": 0.0}.get(str(hit.row["title"]))
            decay = 0.0 if age is None else math.exp(-math.log(2) * age / options.get("half_life_days", 365))
            assert hit.row["time_decay"] == pytest.approx(decay, abs=1e-3)
            assert (
                hit.row["static_score"]
                == {"Drum hits": 0.5, "Drum loops": 1.0, "Bass lines": 0.0}[str(hit.row["title"])]
            )
            assert hit.full_text_score is not None
            assert hit.semantic_score is not None
            assert hit.row["hybrid_score"] == pytest.approx(0.3 * hit.full_text_score + 0.7 * hit.semantic_score)
            assert hit.score == pytest.approx(
                hit.row["hybrid_score"]
                + options.get("static_weight", 0.1) * hit.row["static_score"]  # type: ignore[operator]
                + options.get("decay_weight", 0.1) * hit.row["time_decay"]  # type: ignore[operator]
            )


def test_the_decay_is_one_half_after_one_half_life(owner: Connection, database: PostgresDatabase) -> None:
    add(owner, "Drums", published_at=datetime.now(UTC) - timedelta(days=10))
    add(owner, "Drums", published_at=datetime(1, 1, 1, tzinfo=UTC))
    rows = database.call("search_datasets", {"query_text": "drums", "half_life_days": 10})
    assert [row["time_decay"] for row in rows] == pytest.approx([0.5, 0.0], abs=1e-4)
    with pytest.raises(DatabaseRejected, match="half_life_days"):
        database.call("search_datasets", {"query_text": "drums", "half_life_days": 0})


def test_a_higher_static_score_ranks_first_and_a_tag_filters(owner: Connection, database: PostgresDatabase) -> None:
    low = add(owner, "Drums", score=0.1, tags=["a", "b"])
    high = add(owner, "Drums", score=0.9, tags=["b"])
    assert [row["id"] for row in database.call("search_datasets", {"query_text": "drums"})] == [high, low]
    assert [row["id"] for row in database.call("search_datasets", {"query_text": "drums", "filter_tag": "a"})] == [low]


def test_inactive_and_unenriched_datasets_are_not_found(
    owner: Connection, database: PostgresDatabase, datasets: Collection, provider: FakeProvider
) -> None:
    row_id = add(owner, "Drums", "hits")
    embed_all(datasets, provider)
    vector = str(provider.embed_query("Drums").tolist())
    question = {"query_text": "drums", "query_embedding": vector}
    assert len(database.call("search_datasets", question)) == 1
    owner.execute("update datasets set is_active = false where id = %s", [row_id])
    assert database.call("search_datasets", question) == []
    owner.execute("update datasets set is_active = true, enrichment_status = 'pending' where id = %s", [row_id])
    assert database.call("search_datasets", question) == []


def test_an_update_of_the_score_writes_no_entry_of_the_vector_index(
    owner: Connection, database: PostgresDatabase, datasets: Collection, provider: FakeProvider
) -> None:
    for number in range(300):
        add(owner, f"Drums {number}", "hits", score=0.5)
    embed_all(datasets, provider)
    index = datasets.create_embedding_index()

    def state() -> tuple[object, ...]:
        """The bytes of the vector index, and the place and version of every row."""
        owner.execute("checkpoint")
        found = owner.execute(
            "select md5(pg_read_binary_file(pg_relation_filepath(%s::regclass))),"
            " (select md5(string_agg(ctid::text || xmin::text, ',' order by id)) from datasets)",
            [index],
        ).fetchone()
        assert found is not None
        return found

    before = state()
    owner.execute("update dataset_scores set static_score = random()")
    rows = owner.execute(
        "select jsonb_agg(jsonb_build_object('id', id, 'static_score', 0.25)) from datasets"
    ).fetchone()
    assert rows is not None
    assert database.call_scalar("set_dataset_scores", {"rows": rows[0]}) == 300
    assert owner.execute("select distinct static_score from dataset_overview").fetchall() == [(0.25,)]
    assert state() == before
    owner.execute("update datasets set metadata = '{\"seen\": true}'")
    assert state()[0] != before[0], "this is what an update of the tracked row itself does"


def test_importing_the_same_rows_again_changes_nothing(owner: Connection, database: PostgresDatabase) -> None:
    rows = [
        {"external_id": f"e{n}", "title": f"T{n}", "enrichment_status": "enriched", "static_score": 0.5}
        for n in range(3)
    ]
    assert database.call("upsert_datasets", {"rows": rows}) == [{"inserted": 3, "updated": 0, "unchanged": 0}]
    before = owner.execute("select id, xmin::text from datasets order by id").fetchall()
    assert database.call("upsert_datasets", {"rows": rows}) == [{"inserted": 0, "updated": 0, "unchanged": 3}]
    rows[0]["static_score"] = 0.6
    rows[1]["title"] = "Other"
    assert database.call("upsert_datasets", {"rows": rows}) == [{"inserted": 0, "updated": 2, "unchanged": 1}]
    after = owner.execute("select id, xmin::text from datasets order by id").fetchall()
    assert len(set(before) - set(after)) == 1, "a new score is no new version of the row"


def test_a_dataset_task_claims_a_hundred_rows_and_reports_its_count(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    runs = Runs(database)
    assert runs.record_queued("datasets").batch_size == 100
    assert runs.record_queued("music_knowledge").batch_size == 50
    assert runs.record_queued("datasets", 7).batch_size == 7
    for number in range(3):
        add(owner, f"Drums {number}")
    add(owner, "poison")
    provider.wire.refuses.add("poison")
    report = backfill(database, provider, BackfillOptions("datasets", 100)).report
    assert (report.processed, report.failed) == (4, 1)
