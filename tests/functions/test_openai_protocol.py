"""Tests details of OpenAI's protocol: null fields, tokens, widths, texts that are too long, the list of models."""

import base64
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from tiktoken import Encoding

from functions.http import token_arrays
from tests.fake_provider import DIMENSIONS, FakeProvider
from tests.functions.conftest import API_KEY, KEYS, Serve
from tests.protocol_vectors import embed


def post(client: httpx.Client, given: object, path: str = "/v1/embeddings", **more: object) -> httpx.Response:
    return client.post(path, json={"model": "fake", "input": given, **more})


def vectors(answer: httpx.Response) -> list[list[float]]:
    assert answer.status_code == 200, answer.text
    return [one["embedding"] for one in answer.json()["data"]]


def assert_vectors(answer: httpx.Response, *texts: str) -> None:
    np.testing.assert_allclose(vectors(answer), [embed(text, DIMENSIONS) for text in texts], atol=1e-6)


def refusal(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    "fields",
    [{"encoding_format": None}, {"encoding_format": None, "dimensions": None, "user": None, "truncate": None}],
)
def test_a_field_that_is_null_counts_as_left_out(keyed: httpx.Client, fields: dict[str, None]) -> None:
    assert_vectors(post(keyed, ["a harp", "a viola"], **fields), "a harp", "a viola")


def test_a_slash_at_the_end_changes_nothing(keyed: httpx.Client) -> None:
    assert_vectors(post(keyed, "a harp", "/v1/embeddings/"), "a harp")
    assert keyed.get("/v1/models/").json() == keyed.get("/v1/models").json()
    assert keyed.get("/v1/models/fake/").json() == keyed.get("/v1/models/fake").json()


def test_the_model_is_listed_and_found_by_its_name(keyed: httpx.Client) -> None:
    model = {"id": "fake", "object": "model", "created": 0, "owned_by": "fake"}
    assert keyed.get("/v1/models").json() == {"object": "list", "data": [model]}
    for name in ("fake", "FAKE", "owner/fake", "owner%2Ffake"):
        assert keyed.get(f"/v1/models/{name}").json() == model
    error = refusal(keyed.get("/v1/models/text-embedding-3-small"), 404)
    assert error["code"] == "model_not_found"
    assert "'fake' is" in error["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/", "/v1/models/fake", "/v1/embeddings/"])
def test_every_route_needs_the_key(client: httpx.Client, path: str) -> None:
    method = "POST" if "embeddings" in path else "GET"
    error = refusal(client.request(method, path, json={"model": "fake", "input": "a"}), 401)
    assert error["code"] == "invalid_api_key"
    assert client.request(method, path, headers={"Authorization": "Bearer wrong-key-of-a-test"}).status_code == 401


# Widths


def test_the_models_own_width_is_accepted(keyed: httpx.Client) -> None:
    assert_vectors(post(keyed, "a harp", dimensions=DIMENSIONS), "a harp")
    for width in (DIMENSIONS - 1, DIMENSIONS + 1):
        error = refusal(post(keyed, "a harp", dimensions=width))
        assert (error["param"], error["type"]) == ("dimensions", "invalid_request_error")


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_vectors_are_shortened_if_the_model_allows_it(
    encoding: str, keyed: httpx.Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "shortens_vectors", True)
    answer = post(keyed, ["a harp", "a viola"], dimensions=4, encoding_format=encoding)
    assert answer.status_code == 200
    whole = np.array([embed(text, DIMENSIONS) for text in ("a harp", "a viola")])[:, :4]
    rows = [one["embedding"] for one in answer.json()["data"]]
    if encoding == "base64":
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    np.testing.assert_allclose(rows, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-6)
    assert refusal(post(keyed, "a", dimensions=DIMENSIONS + 1))["param"] == "dimensions"


# Tokens


def test_arrays_of_tokens_are_decoded_to_their_texts(keyed: httpx.Client, encoding: Encoding) -> None:
    texts = ["a harp", "die Bratsche spielt längere Töne", "琴の音 🎻"]
    tokens = [encoding.encode(text) for text in texts]
    assert_vectors(post(keyed, tokens), *texts)
    assert_vectors(post(keyed, tokens[0]), texts[0])


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([10**6], "not tokens of cl100k_base"),
        ([-1], "not tokens of cl100k_base"),
        ([2**70], "not tokens of cl100k_base"),
        ([100256], "not tokens of cl100k_base"),
        ([0, 188], "NUL"),
        ([[1], []], "must not be empty"),
        ([[1], "a"], "a text, a list of texts, an array of token ids, or a list of such arrays"),
        ([True], "a text, a list of texts, an array of token ids, or a list of such arrays"),
        ([1.5], "a text, a list of texts, an array of token ids, or a list of such arrays"),
        ([[1]] * 2049, "between 1 and 2048"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_invalid_tokens_are_refused(given: list[object], named: str, keyed: httpx.Client, encoding: Encoding) -> None:
    error = refusal(post(keyed, given))
    assert named in error["message"]
    assert error["param"] == "input"


def test_without_tiktoken_the_answer_names_the_setting_of_the_client(
    keyed: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_arrays, "find_spec", lambda _: None)
    error = refusal(post(keyed, [[1, 2], [3]]))
    assert "tiktoken" in error["message"]
    assert "check_embedding_ctx_length=False" in error["message"]
    assert error["param"] == "input"


def test_an_encoding_that_cannot_be_loaded_is_loaded_again_for_the_next_request(
    keyed: httpx.Client, encoding: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Encoding:
        raise OSError("no network, and an address that no answer may name")

    with monkeypatch.context() as broken:
        broken.setattr(token_arrays, "_load", fail)
        error = refusal(post(keyed, [1, 2]))
    assert "check_embedding_ctx_length=False" in error["message"]
    assert "address" not in error["message"]
    assert post(keyed, encoding.encode("a harp")).status_code == 200


def test_a_request_does_not_wait_for_an_encoding_that_takes_long_to_load(
    keyed: httpx.Client, encoding: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(token_arrays, "LOAD_SECONDS", 0.1)
    monkeypatch.setattr(token_arrays, "_load", lambda: gate.wait(30) and encoding)
    assert "cannot be loaded" in refusal(post(keyed, [1, 2]))["message"]
    gate.set()
    assert token_arrays._loading is not None
    assert token_arrays._loading.result(10) is encoding
    assert post(keyed, encoding.encode("a harp")).status_code == 200


# Length


class Reads(FakeProvider):
    """A provider that reads five words of a text, and reports which texts it cut."""

    def _request(self, inputs: Sequence[str], timeout: float | None = None, kind: Any = "document") -> Any:
        answer = super()._request([" ".join(text.split()[:5]) for text in inputs], timeout, kind)
        return replace(answer, cut=[place for place, text in enumerate(inputs) if len(text.split()) > 5])


@pytest.fixture
def provider() -> FakeProvider:
    return Reads()


LONG = "one two three four five six seven"


def test_texts_that_are_too_long_are_cut_and_counted_in_a_header(keyed: httpx.Client) -> None:
    answer = post(keyed, ["a harp", LONG, "a viola", LONG])
    assert answer.headers["x-truncated-inputs"] == "2"
    assert_vectors(answer, "a harp", "one two three four five", "a viola", "one two three four five")
    assert post(keyed, "a harp").headers["x-truncated-inputs"] == "0"


def test_a_text_that_may_not_be_cut_is_refused_as_openai_does(keyed: httpx.Client) -> None:
    error = refusal(post(keyed, ["a harp", LONG, "a viola"], truncate=False))
    assert (error["code"], error["type"], error["param"]) == (
        "context_length_exceeded",
        "invalid_request_error",
        "input",
    )
    assert "text 2 of 3" in error["message"]
    assert post(keyed, ["a harp", "a viola"], truncate=False).headers["x-truncated-inputs"] == "0"


def test_the_header_of_a_joined_request_counts_only_its_own_texts(serve: Serve, provider: FakeProvider) -> None:
    client = serve(embedding_provider="ollama")
    client.headers.update(KEYS)
    provider.wire.delay = 0.5
    texts = [LONG if number % 3 == 0 else f"text {number}" for number in range(30)]
    with ThreadPoolExecutor(30) as threads:
        answers = list(threads.map(lambda text: post(client, text), texts))
    assert [answer.headers["x-truncated-inputs"] for answer in answers] == [str(int(text == LONG)) for text in texts]
    assert len(provider.wire.requests) < 20, "hardly any of them were joined"


def test_a_page_of_an_allowed_origin_may_read_the_header(serve: Serve) -> None:
    client = serve(allowed_origins="https://app.example")
    answer = client.post(
        "/v1/embeddings",
        json={"model": "fake", "input": "a"},
        headers={"Origin": "https://app.example", "Authorization": f"Bearer {API_KEY}"},
    )
    assert "X-Truncated-Inputs" in answer.headers["access-control-expose-headers"]
