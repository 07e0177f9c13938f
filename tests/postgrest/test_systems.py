"""Synonyms, datasets and code chunks through both adapters: PostgREST calls the same functions by the same names."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from shared.database.base import Database
from shared.database.postgres import PostgresDatabase
from shared.database.supabase import SupabaseDatabase
from shared.embedding.code_chunks import CodeChunk, store_chunks
from shared.embedding.model_providers import ModelProviders
from shared.embedding.rows import RowEmbedder
from shared.embedding.runs import record_run
from shared.errors import Conflict, NotFound
from shared.models import ANON, Tag
from shared.search.search import SearchService
from shared.synonyms.service import SynonymService
from shared.synonyms.store import SynonymStore
from tests.conftest import Connection
from tests.fake_provider import FakeProvider
from tests.protocol_chat import synonyms


@pytest.fixture(params=["postgres", "transaction", pytest.param("supabase", marks=pytest.mark.postgrest)])
def adapter(request: pytest.FixtureRequest, database_url: SecretStr) -> Iterator[Database]:
    """Each adapter in turn, and a pooler; searches run as anon through all."""
    made: Database
    if request.param == "supabase":
        gateway, tokens = request.getfixturevalue("rest"), request.getfixturevalue("tokens")
        made = SupabaseDatabase(gateway.url, SecretStr(tokens["service_role"]), anon_key=SecretStr(tokens["anon"]))
    elif request.param == "transaction":
        made = PostgresDatabase(request.getfixturevalue("pooler")("transaction").url(database_url))
    else:
        made = PostgresDatabase(database_url)
    with made:
        yield made


def test_synonyms_of_a_tag_are_requested_generated_and_found(
    adapter: Database, owner: Connection, provider: FakeProvider
) -> None:
    owner.execute("insert into genre_tags (name, description) values ('Zouk', 'dance'), ('Salsa', '')")
    store = SynonymStore(adapter)
    assert store.request_synonyms("genre", [1]) == 1
    (tag,) = store.claim_synonym_tags()
    assert tag == Tag("genre", 1, "Zouk", "dance", ["Salsa"], 1)
    store.release_synonym_tag(tag)
    assert not store.fail_synonym_tag(store.claim_synonym_tags()[0], "no", final=False)
    assert store.synonym_coverage()[0]["waiting"] == 1
    assert store.store_generated_synonyms(tag, synonyms("Zouk", {}), "m")[0] == "stored"
    run_id = record_run(adapter, None, None, "running", kind="generation")
    assert record_run(adapter, run_id, None, "completed", {"model": "m", "embedded": 1}, "generation") == run_id
    assert adapter.call_scalar("list_embedding_runs", {"of_run": run_id})["kind"] == "generation"
    assert store.embedding_is_under_way() is False
    assert store.list_failed_synonyms() == []

    embedder = RowEmbedder(adapter, ModelProviders(lambda: provider))
    service = SynonymService(
        adapter, SearchService(adapter, ModelProviders(lambda: provider)), embedder=lambda: embedder
    )
    assert service.get("genre", "zouk", ANON)["source"] == "generated"
    with pytest.raises(NotFound):
        service.get("genre", "Salsa")
    made = store.create_synonyms("genre", {"search_terms": ["cuban dance"]}, tag_name="salsa", confidence=0.5)
    service.embed(made)
    with pytest.raises(Conflict, match=rf"PUT /api/synonyms/{made['id']}"):
        store.create_synonyms("genre", {"search_terms": ["again"]}, tag_id=2)
    before = store.synonyms_version("anon")
    with pytest.raises(Conflict, match="were changed at"):
        store.update_synonyms(made["id"], confidence=0.1, expected_updated_at="2020-01-01T00:00:00Z")
    assert (
        store.update_synonyms(made["id"], confidence=0.7, expected_updated_at=made["updated_at"])["confidence"] == 0.7
    )
    assert store.synonyms_version("anon") != before
    found = service.search("cuban dance", tag_type="genre", caller=ANON)
    assert (found.hits[0]["tag_name"], found.degraded, found.cached) == ("Salsa", False, False)
    assert found.hits[0]["semantic_rank"] == 1
    assert service.search("cuban dance", tag_type="genre", caller=ANON).cached
    store.update_synonyms(made["id"], is_active=False)
    assert "Salsa" not in [hit["tag_name"] for hit in service.search("cuban dance", caller=ANON).hits]


def test_datasets_and_code_chunks_are_stored_and_found(adapter: Database, provider: FakeProvider) -> None:
    rows = [{"external_id": "a", "title": "Drums", "tags": ["x"], "enrichment_status": "enriched", "static_score": 0.5}]
    assert adapter.call("upsert_datasets", {"rows": rows}) == [{"inserted": 1, "updated": 0, "unchanged": 0}]
    search = SearchService(adapter, ModelProviders(lambda: provider))
    (hit,) = search.search("datasets", "drums", filters={"tag": "x"}, options={"half_life_days": 10}, caller=ANON).hits
    assert (hit.row["title"], hit.row["static_score"], hit.row["time_decay"]) == ("Drums", 0.5, 0)
    assert adapter.call_scalar("set_dataset_scores", {"rows": [{"id": hit.id, "static_score": 0.75}]}) == 1

    chunks = [CodeChunk("c1", "def parse(x)", "src/a.py", "python", {"line": 3})]
    vectors = provider.embed_documents(["def parse(x)"])
    assert store_chunks(adapter, provider, chunks, vectors) == 1
    assert store_chunks(adapter, provider, chunks, vectors) == 0
    (found,) = search.search("code_chunks", "parse", filters={"path": "src/"}, caller=ANON).hits
    assert (found.id, found.row["metadata"], found.semantic_rank) == ("c1", {"line": 3}, 1)
