"""Tests search over HTTP with the caller's rights, on both adapters."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from functions.services import Services
from shared.database.postgres import PostgresDatabase
from shared.database.supabase import SupabaseDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection
from shared.errors import ProviderUnavailable
from shared.models import EmbeddingModel
from tests.conftest import Connection
from tests.fake_provider import FakeProvider
from tests.functions.conftest import KEYS, SERVICE_KEY, Insert, Output, Serve, make_settings, token

ANNA, BERT = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"


@pytest.fixture
def embedded(database: PostgresDatabase, provider: FakeProvider) -> Callable[[], None]:
    return lambda: _complete(database, provider)


def _complete(database: PostgresDatabase, provider: FakeProvider) -> None:
    assert backfill(database, provider, BackfillOptions("music_knowledge")).complete


@pytest.fixture
def private(owner: Connection) -> None:
    """Each user sees the rows whose category is their id; anon sees public rows."""
    owner.execute(
        """
        drop policy "everyone reads" on public.music_knowledge;
        create policy "own rows" on public.music_knowledge for select to authenticated using (category = auth.uid()::text);
        create policy "public rows" on public.music_knowledge for select to anon using (category = 'public');
        """
    )


def found(client: httpx.Client, query: str, user: str | None = None) -> set[str]:
    headers = {} if user is None else {"Authorization": f"Bearer {user}"}
    answer = client.post("/api/search/music_knowledge", json={"query": query, "match_count": 200}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert not answer.json()["degraded"]
    return {hit["id"] for hit in answer.json()["hits"]}


@pytest.mark.usefixtures("private")
def test_each_caller_finds_only_their_own_rows(
    each_adapter: httpx.Client, insert: Insert, embedded: Callable[[], None]
) -> None:
    annas = insert("a harp solo", category=ANNA)
    berts = insert("a harp trio", category=BERT)
    everyones = insert("a harp duo", category="public")
    embedded()
    anna, bert = token(sub=ANNA), token(sub=BERT)
    for _ in range(3):
        # The callers use the same connections in turn, so that state of one caller would show in the answer of the next.
        assert found(each_adapter, "harp", anna) == {annas}
        assert found(each_adapter, "harp", bert) == {berts}
        assert found(each_adapter, "harp") == {everyones}
        assert found(each_adapter, "harp", token("anon")) == {everyones}
    assert found(each_adapter, "harp", token(sub="00000000-0000-4000-8000-00000000000c")) == set()


@pytest.mark.usefixtures("private")
def test_a_search_with_the_api_key_finds_only_what_anon_may_read(client: httpx.Client, insert: Insert) -> None:
    insert("a harp solo", category=ANNA)
    everyones = insert("a harp duo", category="public")
    answer = client.post("/api/search/music_knowledge", json={"query": "harp"}, headers=KEYS)
    assert {hit["id"] for hit in answer.json()["hits"]} == {everyones}


@pytest.mark.usefixtures("private")
def test_an_answer_does_not_reveal_a_hidden_row(client: httpx.Client, insert: Insert, owner: Connection) -> None:
    insert("a harp duo", category="public")

    def answer() -> dict[str, object]:
        body = client.post("/api/search/music_knowledge", json={"query": "harp solo"}).json()
        del body["took_ms"]
        return body

    before = answer()
    for _ in range(50):
        insert("a harp solo harp", category=ANNA)
    owner.execute("analyze public.music_knowledge")
    assert answer() == before


def test_a_search_cannot_write(each_adapter: httpx.Client, owner: Connection, insert: Insert) -> None:
    owner.execute(
        """
        create function public.note_search() returns boolean language plpgsql security definer as
          $f$ begin insert into public.music_knowledge (topic) values ('written by a search'); return true; end $f$;
        drop policy "everyone reads" on public.music_knowledge;
        create policy "notes" on public.music_knowledge for select to anon using (public.note_search());
        """
    )
    insert("a harp solo")
    assert each_adapter.get("/api/search/music_knowledge?q=harp").status_code >= 400
    assert owner.execute("select count(*) from public.music_knowledge").fetchone() == (1,)


def test_a_hit_has_the_columns_of_its_row_and_every_part_of_its_score(
    client: httpx.Client, insert: Insert, embedded: Callable[[], None]
) -> None:
    row = insert("a compressor turns loud parts down", topic="compression", category="mixing")
    insert("a reverb adds space", topic="reverb", category="effects")
    embedded()
    answer = client.post(
        "/api/search/music_knowledge",
        json={
            "query": "a compressor turns loud parts down",
            "match_count": 1,
            "full_text_weight": 0.4,
            "semantic_weight": 0.6,
        },
    ).json()
    (hit,) = answer["hits"]
    assert hit["id"] == row
    assert (hit["topic"], hit["category"], hit["content"]) == (
        "compression", "mixing", "a compressor turns loud parts down",
    )  # fmt: skip
    assert hit["full_text_rank"] == 1
    assert hit["semantic_rank"] == 1
    assert hit["score"] == pytest.approx(0.4 * hit["full_text_score"] + 0.6 * hit["semantic_score"])
    assert answer["degraded"] is False
    assert answer["took_ms"] > 0


def test_a_filter_limits_the_hits_and_a_link_returns_the_same_hits(
    client: httpx.Client, insert: Insert, embedded: Callable[[], None]
) -> None:
    insert("a harp solo", category="solo")
    row = insert("a harp duo", category="duo")
    embedded()
    body = {"query": "harp", "filter": {"category": "duo"}}
    assert [hit["id"] for hit in client.post("/api/search/music_knowledge", json=body).json()["hits"]] == [row]
    linked = client.get("/api/search/music_knowledge", params={"q": "harp", "limit": 1}).json()["hits"]
    posted = client.post("/api/search/music_knowledge", json={"query": "harp", "match_count": 1}).json()["hits"]
    assert linked == posted


def test_a_search_uses_full_text_alone_when_the_provider_is_down(
    client: httpx.Client, insert: Insert, embedded: Callable[[], None], provider: FakeProvider
) -> None:
    row = insert("a harp solo")
    embedded()
    provider.wire.down = ProviderUnavailable("gone")
    answer = client.get("/api/search/music_knowledge?q=harp").json()
    assert answer["degraded"] is True
    assert [hit["id"] for hit in answer["hits"]] == [row]
    assert answer["hits"][0]["semantic_score"] == 0


def test_a_search_uses_full_text_alone_when_the_provider_cannot_be_created(
    serve: Serve,
    database: PostgresDatabase,
    insert: Insert,
    embedded: Callable[[], None],
    owner: Connection,
    output: Output,
    tmp_path: Path,
) -> None:
    row = insert("a harp solo")
    owner.execute("insert into public.genre_tags (name) values ('Zouk')")
    embedded()
    settings = make_settings(embedding_provider="onnx", onnx_model=str(tmp_path / "nothing"))
    client = serve(services=Services(settings, database=database, long_lived=True))
    synonyms = {"tag_type": "genre", "tag_name": "Zouk", "synonyms": {"search_terms": ["caribbean dance"]}}
    assert client.post("/api/synonyms", json=synonyms, headers=KEYS).status_code == 201
    Collection(database, "mir_synonyms").register_embedding_model(EmbeddingModel("fake", "fake", 16), use=True)
    owner.execute("update embedding.models set provider = 'onnx' where name = 'fake'")
    answer = client.get("/api/search/music_knowledge?q=harp").json()
    assert (answer["degraded"], [hit["id"] for hit in answer["hits"]]) == (True, [row])
    found = client.post("/api/mir/synonyms/search", json={"query": "caribbean"}).json()
    assert (found["degraded"], [hit["tag_name"] for hit in found["results"]]) == (True, ["Zouk"])
    assert any("searching music_knowledge without model fake: ONNX_MODEL" in line for line in output.lines)


@pytest.mark.parametrize(
    ("path", "body", "status", "named"),
    [
        ("/api/search/nothing", {"query": "a"}, 404, "nothing"),
        ("/api/search/music_knowledge", {}, 422, "query"),
        ("/api/search/music_knowledge", {"query": ""}, 422, "query"),
        ("/api/search/music_knowledge", {"query": "a\0b"}, 422, "NUL"),
        ("/api/search/music_knowledge", {"query": "a", "match_count": 0}, 422, "match_count"),
        ("/api/search/music_knowledge", {"query": "a", "match_count": 201}, 422, "match_count"),
        ("/api/search/music_knowledge", {"query": "a", "filter": {"secret": "x"}}, 422, "secret"),
        ("/api/search/music_knowledge", {"query": "a", "full_text_weight": -1}, 422, "full_text_weight"),
        ("/api/search/music_knowledge", {"query": "a", "limit": 1}, 422, "limit"),
    ],
)
def test_an_invalid_search_names_the_wrong_field(
    client: httpx.Client, path: str, body: dict[str, object], status: int, named: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert named in answer.json()["error"]["message"]


@pytest.mark.postgrest
def test_the_service_role_key_does_not_travel_with_a_callers_search(
    database_url: SecretStr, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[httpx.Headers] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers)
        return httpx.Response(200, json=[])

    from shared.models import ANON, Caller

    http = httpx.Client(transport=httpx.MockTransport(answer))
    with SupabaseDatabase(
        "http://127.0.0.1:9", SecretStr(SERVICE_KEY), anon_key=SecretStr("the-anon-key"), http_client=http
    ) as database:
        database.as_caller(ANON).call("search_music_knowledge", {"query_text": "a"})
        database.as_caller(Caller("authenticated", {}, "a-users-token")).call("search_music_knowledge", {})
    assert [headers["authorization"] for headers in sent] == ["Bearer the-anon-key", "Bearer a-users-token"]
    assert all(headers["apikey"] == "the-anon-key" for headers in sent)
    assert all(SERVICE_KEY not in str(dict(headers)) for headers in sent)


def test_a_token_that_supabase_refuses_is_unauthorized(serve: Serve, provider: FakeProvider) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.headers["authorization"] == f"Bearer {SERVICE_KEY}":
            return httpx.Response(200, json=[])
        return httpx.Response(
            401, json={"code": "PGRST301", "message": "JWSInvalidSignature", "details": None, "hint": None}
        )

    http = httpx.Client(transport=httpx.MockTransport(answer))
    settings = make_settings(
        supabase_url="http://127.0.0.1:9", supabase_service_role_key=SERVICE_KEY, supabase_anon_key="the-anon-key"
    )
    with SupabaseDatabase(
        "http://127.0.0.1:9", SecretStr(SERVICE_KEY), anon_key=SecretStr("the-anon-key"), http_client=http
    ) as database:
        client = serve(services=Services(settings, database=database, provider=provider, long_lived=True))
        forged = token(secret="y" * 48)
        refused = client.get("/api/search/music_knowledge?q=a", headers={"Authorization": f"Bearer {forged}"})
    assert refused.status_code == 401
