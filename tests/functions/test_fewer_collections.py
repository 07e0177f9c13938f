"""Tests a server over a database with some of the shipped collections, or none."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from functions.services import Services
from functions.worker import run
from shared.database.postgres import PostgresDatabase
from shared.embedded.migrations import migrate
from tests.fake_provider import FakeProvider
from tests.functions.conftest import KEYS, Serve, make_settings
from tests.postgres_cluster import Cluster


@dataclass
class Site:
    """A server, its database, and a client with the key."""

    url: SecretStr
    services: Services
    client: httpx.Client

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url.get_secret_value(), autocommit=True) as owner:
            owner.execute(statement)


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(cluster: Cluster, provider: FakeProvider, serve: Serve) -> Iterator[MakeSite]:
    with ExitStack() as stack:

        def make(*collections: str, **settings: Any) -> Site:
            url = stack.enter_context(cluster.empty())
            migrate(url, collections=collections, seed=True)
            database = stack.enter_context(PostgresDatabase(url))
            services = Services(make_settings(**settings), database=database, provider=provider, long_lived=True)
            client = serve(services=services)
            client.headers.update(KEYS)
            return Site(url, services, client)

        yield make


def absent(collection: str) -> str:
    return (
        f"collection: this database was set up without '{collection}'; "
        f"add it with scripts/migrate.py --collections {collection}"
    )


SYNONYMS = {"search_terms": ["bossa"], "related_tags": [], "usage_context": "", "translations": {"fr": [], "en": []}}
SYNONYM_ROUTES = [
    ("GET", "/api/synonyms/search?q=bossa", None),
    ("GET", "/api/synonyms/genre/bossa%20nova", None),
    ("GET", "/api/synonyms/generation", None),
    ("POST", "/api/synonyms/generate", {}),
    ("POST", "/api/synonyms", {"tag_type": "genre", "tag_name": "bossa nova", "synonyms": SYNONYMS}),
    ("PUT", "/api/synonyms/1", {"confidence": 0.5}),
    ("DELETE", "/api/synonyms/1", None),
    ("POST", "/api/mir/synonyms/search", {"query": "bossa"}),
]
COLLECTION_ROUTES = [
    ("POST", "/api/search/{}", {"query": "drums"}),
    ("GET", "/api/search/{}?q=drums", None),
    ("GET", "/api/collections/{}/failures", None),
    ("POST", "/api/collections/{}/retry", {}),
    ("GET", "/api/collections/{}/estimate", None),
    ("GET", "/api/collections/{}/map", None),
]


def error_of(answer: httpx.Response) -> str:
    assert answer.status_code == 404, (answer.request.url, answer.text)
    message: str = answer.json()["error"]["message"]
    assert "\n" not in message
    return message


@pytest.mark.parametrize("present", [(), ("music_knowledge", "datasets")])
def test_present_collections_work_and_absent_ones_are_not_found(make_site: MakeSite, present: tuple[str, ...]) -> None:
    site = make_site(*present, generation_provider="ollama")
    client = site.client
    assert client.get("/health").status_code == 200
    assert client.get("/ready").status_code == 200
    start = client.get("/api/console").json()
    assert (start["searchable"], start["problems"]) == (sorted(present), [])
    listed = client.get("/api/collections").json()["collections"]
    assert {one["collection"] for one in listed} == set(present)

    for name in ("music_knowledge", "datasets", "code_chunks", "mir_synonyms"):
        for method, path, body in COLLECTION_ROUTES:
            answer = client.request(method, path.format(name), json=body)
            if name in present:
                assert answer.status_code == 200, (path, answer.text)
            else:
                message = error_of(answer)
                if "/search/" in path:
                    assert message == absent(name)
    for method, path, body in SYNONYM_ROUTES:
        assert error_of(client.request(method, path, json=body)) == absent("mir_synonyms"), path
    stored = {"batch_id": "b", "store": True, "chunks": [{"chunk_id": "1", "content": "def f(): ..."}]}
    assert error_of(client.post("/embed", json=stored)) == absent("code_chunks")
    assert client.post("/embed", json={**stored, "store": False}).status_code == 200
    for path in ("/api/runs", "/api/costs"):
        assert client.get(path).status_code == 200, path


def test_a_users_table_is_embedded_without_any_shipped_collection(make_site: MakeSite, provider: FakeProvider) -> None:
    site = make_site()
    site.execute(
        """create table public.notes (id int primary key, body text);
        create function embedding.document_text(n public.notes) returns text language sql immutable as $$ select n.body $$;
        select track_embeddings('notes');
        insert into public.notes values (1, 'a note')"""
    )
    services = site.services
    assert services.embedding_job.has_work()
    outcome = services.runs.execute(services.embedding_job, services.runs.record_queued())
    assert outcome.report.embedded == 1
    (listed,) = site.client.get("/api/collections").json()["collections"]
    assert (listed["collection"], listed["embedded"]) == ("notes", 1)
    assert listed["search"] is None


def test_the_schedule_works_without_the_synonyms_collection(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    services = make_site(generation_provider="ollama").services
    assert not services.synonym_job.has_work()

    class Context:
        def get_remaining_time_in_millis(self) -> int:
            return 60_000

    caplog.clear()
    answer = run({"source": "aws.scheduler"}, Context(), services)
    assert answer["status"] == "completed"
    assert "synonyms" not in answer
    assert [record.message for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


def test_collections_added_later_are_served_at_once(make_site: MakeSite) -> None:
    site = make_site()
    assert error_of(site.client.get("/api/search/datasets?q=drums")) == absent("datasets")
    migrate(site.url, collections=["datasets"], seed=True)
    assert site.client.get("/api/search/datasets?q=drums").json()["hits"]
    assert site.client.get("/api/console").json()["searchable"] == ["datasets"]
