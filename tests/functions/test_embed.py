"""Tests the three routes that turn texts into vectors."""

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest

from shared.errors import ProviderQuotaExceeded, ProviderUnavailable
from tests.fake_provider import DIMENSIONS, FakeProvider
from tests.functions.conftest import API_KEY, KEYS, Output, Serve
from tests.protocol_vectors import embed

ROW_TEXT = "the private text of a row"


def unit(text: str) -> list[float]:
    vector = np.array(embed(text, DIMENSIONS), dtype=np.float32)
    return list(vector / np.linalg.norm(vector))


def chunks(*texts: str) -> dict[str, object]:
    return {"batch_id": "b1", "chunks": [{"chunk_id": f"c{n}", "content": text} for n, text in enumerate(texts)]}


def test_each_chunk_gets_the_vector_of_its_own_text_in_order(keyed: httpx.Client) -> None:
    texts = [f"text number {number} harp" for number in range(256)]
    answer = keyed.post("/embed", json=chunks(*texts)).json()
    assert answer["batch_id"] == "b1"
    assert [one["chunk_id"] for one in answer["vectors"]] == [f"c{n}" for n in range(256)]
    for text, one in zip(texts, answer["vectors"], strict=True):
        assert one["vector"] == pytest.approx(unit(text), abs=1e-6)


@pytest.mark.parametrize("count", [0, 257])
def test_a_batch_holds_1_to_256_chunks(keyed: httpx.Client, count: int) -> None:
    assert keyed.post("/embed", json=chunks(*["a"] * count)).status_code == 422


@pytest.mark.parametrize("content", ["", "a\0b", "\ud800", 7, None])
def test_a_content_that_is_no_text_is_refused_by_its_place(keyed: httpx.Client, content: object) -> None:
    body = json.dumps({"batch_id": "b", "chunks": [{"chunk_id": "c", "content": content}]})
    answer = keyed.post("/embed", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert "chunks.0.content" in answer.json()["error"]["message"]


def test_one_text_and_its_model(keyed: httpx.Client) -> None:
    answer = keyed.post("/api/vectorization/embed", json={"text": "a harp"}).json()
    assert answer["embedding"] == pytest.approx(unit("a harp"), abs=1e-6)
    assert (answer["model"], answer["dimensions"]) == ("fake", DIMENSIONS)
    status = keyed.get("/api/vectorization/status").json()
    assert (status["provider"], status["model"], status["dimensions"]) == ("fake", "fake", DIMENSIONS)


def test_an_error_names_the_refused_chunk_and_does_not_quote_it(keyed: httpx.Client, provider: FakeProvider) -> None:
    provider.wire.refuses.add("poison")
    answer = keyed.post("/embed", json=chunks("a harp", "a poison " + ROW_TEXT))
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith("text 2 of 2: ")
    assert ROW_TEXT not in answer.text


@pytest.fixture
def remote(serve: Serve) -> httpx.Client:
    """A client with the key, for a server whose provider does not run in the server's process."""
    client = serve(embedding_provider="ollama")
    client.headers.update(KEYS)
    return client


@pytest.mark.parametrize("server", ["keyed", "remote"])
def test_concurrent_callers_get_their_own_vectors_from_joined_requests(
    server: str, provider: FakeProvider, request: pytest.FixtureRequest
) -> None:
    client: httpx.Client = request.getfixturevalue(server)
    # Long enough for a slow machine to receive the next texts meanwhile.
    provider.wire.delay = 0.5
    texts = [f"text number {number} viola" for number in range(200)]

    def one(text: str) -> list[float]:
        return list(client.post("/embed", json=chunks(text)).json()["vectors"][0]["vector"])

    with ThreadPoolExecutor(50) as threads:
        vectors = list(threads.map(one, texts))
    for text, vector in zip(texts, vectors, strict=True):
        assert vector == pytest.approx(unit(text), abs=1e-6)
    assert sorted(provider.wire.texts).count("music") <= 1, "the warm-up"
    assert len(provider.wire.requests) < 60, "200 texts, and hardly any of them joined"


def test_a_refused_text_does_not_affect_the_others_of_its_batch(remote: httpx.Client, provider: FakeProvider) -> None:
    gate = provider.wire.gate = threading.Event()
    provider.wire.arrived.clear()
    provider.wire.refuses.add("poison")

    def post(text: str) -> int:
        return remote.post("/embed", json=chunks(text)).status_code

    with ThreadPoolExecutor(12) as threads:
        blocker = [threads.submit(post, f"first {number}") for number in range(4)]
        assert provider.wire.arrived.wait(10)
        good = [threads.submit(post, f"good {number}") for number in range(6)]
        bad = threads.submit(post, "poison")
        gate.set()
        assert {future.result() for future in [*blocker, *good]} == {200}
        assert bad.result() == 422


def test_an_unreachable_provider_is_reported_with_its_status(keyed: httpx.Client, provider: FakeProvider) -> None:
    provider.wire.down = ProviderUnavailable("the provider is down", retry_after=0.01)
    answer = keyed.post("/embed", json=chunks("a"))
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "provider_unavailable"
    assert answer.headers["retry-after"] == "1"
    provider.wire.down = ProviderQuotaExceeded()
    assert keyed.post("/embed", json=chunks("a", "b")).status_code == 503


def test_a_batch_writes_two_events(keyed: httpx.Client, output: Output, provider: FakeProvider) -> None:
    keyed.post("/embed", json=chunks("one two three", ROW_TEXT))
    events = [json.loads(line) for line in output.stdout().splitlines() if '"embedding.batch' in line]
    mine = [event for event in events if event["batch_id"] == "b1"]
    assert [event["event"] for event in mine] == ["embedding.batch_started.v1", "embedding.batch_completed.v1"]
    assert mine[1]["chunk_count"] == 2
    assert mine[1]["model"] == "fake"
    assert mine[1]["tokens"] == sum(provider.count_tokens(["one two three", ROW_TEXT]))
    assert mine[1]["duration_ms"] >= 0
    assert ROW_TEXT not in output.stdout() + "".join(output.lines)


# The official client


@pytest.fixture
def official(keyed: httpx.Client) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{keyed.base_url}/v1", api_key=API_KEY, max_retries=0)


@pytest.mark.parametrize("encoding", ["default", "float", "base64"])
def test_the_official_client_embeds_one_text_and_a_list(official: openai.OpenAI, encoding: str) -> None:
    texts = ["a harp", "a viola", "a drum"]
    arguments = {} if encoding == "default" else {"encoding_format": encoding}
    with official:
        many = official.embeddings.create(model="fake", input=texts, **arguments)  # type: ignore[call-overload]
        single = official.embeddings.create(model="fake", input="a harp", dimensions=DIMENSIONS, **arguments)  # type: ignore[call-overload]
    assert [one.index for one in many.data] == [0, 1, 2]
    for text, one in zip([*texts, "a harp"], [*many.data, *single.data], strict=True):
        vector = one.embedding
        if isinstance(vector, str):
            vector = np.frombuffer(base64.b64decode(vector), dtype="<f4").tolist()
        assert vector == pytest.approx(unit(text), abs=1e-6)
    assert many.model == "fake"
    assert (many.usage.prompt_tokens, many.usage.total_tokens) == (6, 6)


@pytest.mark.parametrize(
    ("change", "kind", "named"),
    [
        ({"model": "text-embedding-3-small"}, openai.NotFoundError, "fake"),
        ({"input": ""}, openai.BadRequestError, "empty"),
        ({"input": []}, openai.BadRequestError, "between 1 and 2048"),
        ({"input": ["a"] * 2049}, openai.BadRequestError, "between 1 and 2048"),
        ({"input": ["a", ""]}, openai.BadRequestError, "empty"),
        ({"dimensions": 8}, openai.BadRequestError, "dimensions"),
    ],
)
def test_the_official_client_gets_a_clear_error(
    official: openai.OpenAI, change: dict[str, object], kind: type[openai.APIStatusError], named: str
) -> None:
    with official, pytest.raises(kind) as raised:
        official.embeddings.create(**{"model": "fake", "input": "a", **change})  # type: ignore[arg-type]
    body = raised.value.body
    assert isinstance(body, dict)
    assert set(body) == {"message", "type", "param", "code"}
    assert body["type"] == "invalid_request_error"
    assert body["param"] == next(iter(change))
    assert named in body["message"]
    assert "validator" not in body["message"]


def test_openai_parameters_without_meaning_here_are_ignored(keyed: httpx.Client) -> None:
    for user in ("me", 5, None, ["a"]):
        answer = keyed.post("/v1/embeddings", json={"model": "fake", "input": "a", "user": user})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("body", "param"), [("{", None), ('{"model": }', None), ("[]", None), ('{"model": 5, "input": "a"}', "model")]
)
def test_an_openai_error_names_a_parameter_only_if_one_is_wrong(
    keyed: httpx.Client, body: str, param: str | None
) -> None:
    answer = keyed.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_the_official_client_reports_a_wrong_key(keyed: httpx.Client) -> None:
    with (
        openai.OpenAI(base_url=f"{keyed.base_url}/v1", api_key="wrong", max_retries=0) as other,
        pytest.raises(openai.AuthenticationError) as raised,
    ):
        other.embeddings.create(model="fake", input="a")
    assert raised.value.code == "invalid_api_key"
