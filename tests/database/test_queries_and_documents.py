"""Tests models with different inputs for queries and documents: their vectors are never mixed with others."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection
from shared.embedding.estimate import estimate
from shared.embedding.model_providers import ModelProviders
from shared.embedding.model_switch import switch_model
from shared.errors import AppError
from shared.providers.base import EmbeddingProvider
from shared.providers.openai.provider import OpenAIProvider
from shared.search.search import SearchService
from shared.settings import Settings, load_settings
from shared.wiring import get_cache, get_provider, get_provider_for, get_search
from tests.compatible_server import CompatibleServer
from tests.database.rows import MUSIC, Connection, add
from tests.protocol_vectors import embed, tokenize

Configure = Callable[..., tuple[Settings, EmbeddingProvider]]


@pytest.fixture
def server() -> Iterator[CompatibleServer]:
    with CompatibleServer() as running:
        yield running


@pytest.fixture
def configure(server: CompatibleServer) -> Iterator[Configure]:
    """`configure(**settings)`: settings for the compatible server, and their provider."""
    with ExitStack() as stack:

        def make(**given: object) -> tuple[Settings, EmbeddingProvider]:
            settings = load_settings(
                embedding_provider="openai", embedding_model="e5", openai_base_url=server.url, **given
            )
            provider = get_provider(settings)
            stack.callback(provider.close)
            return settings, provider

        yield make


def vector(owner: Connection) -> "np.typing.NDArray[np.float32]":
    row = owner.execute("select embedding::text from music_knowledge").fetchone()
    assert row is not None
    return np.fromstring(row[0].strip("[]"), sep=",", dtype=np.float32)


def sent(server: CompatibleServer) -> list[str]:
    texts = [text for text in server.inputs if text != "music"]
    server.bodies.clear()
    return texts


@pytest.mark.parametrize(
    "changed",
    [
        {"embedding_document_prefix": "passage: "},
        {"embedding_document_prefix": "doc: "},
        {"embedding_input_types": "query,passage"},
    ],
    ids=str,
)
def test_another_document_prefix_or_type_is_another_model(
    changed: dict[str, str],
    owner: Connection,
    database: PostgresDatabase,
    server: CompatibleServer,
    configure: Configure,
) -> None:
    add(owner, "slow jazz")
    first = {"embedding_query_prefix": "query: ", "embedding_document_prefix": "text: "}
    _, before = configure(**first)
    assert backfill(database, before, BackfillOptions(MUSIC)).report.embedded == 1
    np.testing.assert_allclose(vector(owner), embed(f"text: {text(owner)}", 24), atol=1e-5)

    sent(server)
    settings, after = configure(**{"embedding_query_prefix": "query: ", **changed})
    assert after.model != before.model
    with pytest.raises(AppError, match=rf"{before.model}.*{after.model}|{after.model}.*{before.model}"):
        backfill(database, after, BackfillOptions(MUSIC))
    assert sent(server) == [], "nothing is paid for before the model is found to be another one"

    assert switch_model(database, after, MUSIC) == 1
    sent(server)
    # The row still has its old vector. So the query is embedded twice: with the old prefixes and with the new ones.
    search = get_search(settings, database=database, provider=after)
    hits = search.search(MUSIC, "jazz").hits
    assert hits[0].semantic_rank == 1
    assert sent(server) == ["query: jazz"] * 2
    assert backfill(database, after, BackfillOptions(MUSIC)).report.embedded == 1
    prefix = changed.get("embedding_document_prefix", "")
    np.testing.assert_allclose(vector(owner), embed(f"{prefix}{text(owner)}", 24), atol=1e-5)
    assert Collection(database, MUSIC).verify_embeddings() == 0


def text(owner: Connection) -> str:
    row = owner.execute("select embedding.document_text(m) from music_knowledge m").fetchone()
    assert row is not None
    return str(row[0])


def test_another_query_prefix_takes_effect_at_once_and_nothing_is_embedded_again(
    owner: Connection, database: PostgresDatabase, server: CompatibleServer, configure: Configure
) -> None:
    add(owner, "slow jazz")
    for prefix in ("query: ", "ask: "):
        settings, provider = configure(embedding_query_prefix=prefix, embedding_document_prefix="passage: ")
        backfill(database, provider, BackfillOptions(MUSIC))
        assert get_search(settings, database=database, provider=provider).search(MUSIC, "jazz").hits
    assert sent(server) == [f"passage: {text(owner)}", "query: jazz", "ask: jazz"]
    # Without the setting, the registered query prefix is used.
    settings, provider = configure(embedding_document_prefix="passage: ")
    for_registered = SearchService(
        database, ModelProviders(lambda: provider, lambda spec: get_provider_for(spec, settings))
    )
    for_registered.search(MUSIC, "jazz")
    assert sent(server) == ["query: jazz"]


def test_a_cached_query_is_not_used_under_another_prefix(
    database: PostgresDatabase, server: CompatibleServer, configure: Configure, owner: Connection
) -> None:
    cache = get_cache(configure()[0])
    found = set()
    for prefix in ("query: ", "ask: "):
        _, provider = configure(embedding_query_prefix=prefix)
        providers = ModelProviders(lambda made=provider: made)
        found.add(SearchService(database, providers, cache, query_prefix=prefix).query_vector(provider.spec, "jazz"))
    assert len(found) == 2


# Cost


@pytest.mark.parametrize("habits", [{"index twice"}, {"index twice", "no usage"}], ids=["usage", "no usage"])
def test_a_run_counts_the_tokens_of_answers_that_it_refused(
    habits: set[str], owner: Connection, database: PostgresDatabase, server: CompatibleServer, configure: Configure
) -> None:
    server.habits = habits
    add(owner, *(f"note number {number}" for number in range(12)))
    _, provider = configure(embedding_price_per_million=1.0)
    report = backfill(database, provider, BackfillOptions(MUSIC, batch_size=12, workers=1)).report
    assert report.embedded == 12
    assert len(server.inputs) > 40, "each text is sent several times"
    counted = sum(provider.count_tokens(server.inputs)) if "no usage" in habits else server.billed
    assert report.tokens == counted
    assert report.cost_usd == pytest.approx(counted / 1e6)
    row = owner.execute("select tokens from embedding.runs order by started_at desc limit 1").fetchone()
    assert row == (counted,)


def test_max_cost_sees_the_tokens_of_refused_answers(
    owner: Connection, database: PostgresDatabase, server: CompatibleServer, configure: Configure
) -> None:
    add(owner, *(f"note number {number}" for number in range(60)))
    _, provider = configure(embedding_price_per_million=1_000_000.0)
    # This amount is enough for the texts if each is sent once.
    once = float(estimate(database, provider, MUSIC).tokens)
    server.habits = {"index twice"}
    outcome = backfill(database, provider, BackfillOptions(MUSIC, batch_size=10, workers=1, max_cost=once))
    assert outcome.over_budget
    assert outcome.report.embedded < 60
    assert outcome.report.cost_usd == pytest.approx(server.billed)


@pytest.mark.parametrize("prefix", ["", "passage, as the model wants it: "])
def test_an_estimate_counts_the_document_prefix_of_each_text(
    prefix: str,
    owner: Connection,
    database: PostgresDatabase,
    server: CompatibleServer,
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(OpenAIProvider, "count_tokens", lambda self, texts: [len(tokenize(text)) for text in texts])
    add(owner, *(f"note number {number}" for number in range(40)))
    _, provider = configure(embedding_document_prefix=prefix, embedding_dimensions=24)
    expected = estimate(database, provider, MUSIC)
    assert expected.tokens == 40 * len(tokenize(prefix + "note number 1"))
    assert backfill(database, provider, BackfillOptions(MUSIC)).report.tokens == server.billed == expected.tokens
    add(owner, "one more")
    more = estimate(database, provider, MUSIC)
    assert more.tokens == len(tokenize(prefix + "one more")), "the model is registered now"


def test_an_estimate_counts_the_prefix_of_each_text_beyond_the_sample(
    owner: Connection, database: PostgresDatabase, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenAIProvider, "count_tokens", lambda self, texts: [len(text) for text in texts])
    add(owner, *(f"note {number:04}" for number in range(1500)))
    _, provider = configure(embedding_document_prefix="passage: ", embedding_dimensions=24)
    assert estimate(database, provider, MUSIC).tokens == 1500 * len("passage: note 0000")


def test_max_cost_sees_the_prefix_before_it_is_paid(
    owner: Connection, database: PostgresDatabase, server: CompatibleServer, configure: Configure
) -> None:
    add(owner, *(f"note number {number}" for number in range(20)))
    _, provider = configure(
        embedding_document_prefix="passage: ", embedding_dimensions=24, embedding_price_per_million=1_000_000.0
    )
    without = sum(provider.count_tokens([f"note number {number}" for number in range(20)]))
    outcome = backfill(database, provider, BackfillOptions(MUSIC, batch_size=20, workers=1, max_cost=float(without)))
    assert (outcome.over_budget, outcome.report.tokens, server.inputs) == (True, 0, [])


def test_a_run_that_ends_with_an_error_reports_what_it_paid(
    owner: Connection, database: PostgresDatabase, server: CompatibleServer, configure: Configure
) -> None:
    add(owner, *(f"note number {number}" for number in range(5)))
    _, provider = configure(embedding_dimensions=24)
    server.habits = {"wider"}
    outcome = backfill(database, provider, BackfillOptions(MUSIC))
    assert outcome.error is not None
    assert outcome.report.embedded == 0
    assert outcome.report.tokens == server.billed > 0
