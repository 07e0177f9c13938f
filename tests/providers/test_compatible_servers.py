"""Tests servers that speak OpenAI's protocol in their own way, over real HTTP."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from shared.errors import ProviderContractError, ProviderError, ProviderInputRejected, ProviderRejected
from shared.models import InputRules, Spent
from shared.providers.openai.provider import OpenAIProvider
from shared.retry import Retrier
from tests.compatible_server import REFUSALS, WIDTH, CompatibleServer
from tests.protocol_vectors import embed
from tests.providers.cases import texts
from tests.providers.conftest import FAST

Connect = Callable[..., OpenAIProvider]


@pytest.fixture
def server() -> Iterator[CompatibleServer]:
    with CompatibleServer() as running:
        yield running


@pytest.fixture
def connect(server: CompatibleServer) -> Iterator[Connect]:
    with ExitStack() as stack:

        def make(**options: Any) -> OpenAIProvider:
            given = {"api_key": SecretStr("a-key-of-a-test"), "model": "house-model", "base_url": server.url, **options}
            provider = OpenAIProvider(retrier=Retrier(FAST), **given)
            stack.callback(provider.close)
            return provider

        yield make


HABITS = [
    ["no index"],
    ["no index 0"],
    ["no index 0", "reversed"],
    ["index 0"],
    ["reversed"],
    ["no usage"],
    ["float64"],
    ["digits always"],
    *([habit] for habit in REFUSALS),
    ["base64 as detail", "no index", "no usage"],
]


@pytest.mark.parametrize("width", [None, WIDTH], ids=["width unknown", "width known"])
@pytest.mark.parametrize("habits", HABITS, ids=" and ".join)
def test_each_text_gets_its_own_vector_whatever_the_servers_habits(
    habits: list[str], width: int | None, server: CompatibleServer, connect: Connect
) -> None:
    server.habits = set(habits)
    provider = connect(dimensions=width)
    result = provider.embed(texts(5))
    assert provider.dimensions == WIDTH
    np.testing.assert_allclose(result.vectors, [embed(text, WIDTH) for text in texts(5)], atol=1e-6)
    assert result.calls == len(server.bodies)
    assert len(server.inputs) == (5 if width else 6) + (habits[0] in REFUSALS) * (5 if width else 1)


def test_vectors_of_integers_are_brought_to_unit_length(server: CompatibleServer, connect: Connect) -> None:
    server.habits = {"integers"}
    vectors = connect().embed_documents(texts(3))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.einsum("ij,ij->i", vectors, [embed(text, WIDTH) for text in texts(3)]).min() > 0.99


def test_one_text_is_embedded_whatever_number_it_has(server: CompatibleServer, connect: Connect) -> None:
    server.habits = {"index twice"}
    np.testing.assert_allclose(connect().embed_documents(["a"])[0], embed("a", WIDTH), atol=1e-6)
    with pytest.raises(ProviderContractError, match="do not have each index"):
        connect().embed_documents(texts(3))


def test_a_model_of_twice_the_width_is_not_taken_for_float64(server: CompatibleServer, connect: Connect) -> None:
    server.habits = {"wider"}
    with pytest.raises(ProviderContractError, match=f"{2 * WIDTH} dimensions.* {WIDTH}"):
        connect(dimensions=WIDTH).embed(texts(3))


def test_a_server_that_refuses_base64_is_asked_once_more_and_then_in_floats(
    server: CompatibleServer, connect: Connect
) -> None:
    server.habits = {"base64 as text"}
    provider = connect(dimensions=WIDTH)
    assert provider.embed(texts(3)).calls == 2
    assert provider.embed(texts(3)).calls == 1
    # Another provider of the same process also sends no second request.
    assert connect(dimensions=WIDTH).embed(texts(3)).calls == 1
    assert [body["encoding_format"] for body in server.bodies] == ["base64", "float", "float", "float"]


def test_a_refusal_whose_message_only_mentions_base64_concerns_the_text(
    server: CompatibleServer, connect: Connect
) -> None:
    server.refusal = (400, {"error": {"message": "the input looks like base64"}})
    with pytest.raises(ProviderInputRejected, match="looks like base64"):
        connect(dimensions=WIDTH).embed(["aGVsbG8="])
    assert len(server.bodies) == 2


# Tokens


@pytest.mark.parametrize("habit", ["no usage", "usage 0"])
def test_without_usage_tokens_are_estimated(habit: str, server: CompatibleServer, connect: Connect) -> None:
    server.habits = {habit}
    provider = connect(dimensions=WIDTH)
    assert provider.embed(texts(4)).tokens == sum(provider.count_tokens(texts(4)))


@pytest.mark.parametrize("isolate", [True, False])
@pytest.mark.parametrize("habit", ["index twice", "wider"])
def test_tokens_of_answers_that_cannot_be_used_are_counted(
    habit: str, isolate: bool, server: CompatibleServer, connect: Connect
) -> None:
    server.habits = {habit}
    spent = Spent()
    provider = connect(dimensions=WIDTH)
    try:
        done = provider.embed(texts(20), isolate=isolate, spent=spent)
        assert (done.tokens, done.calls) == (spent.tokens, spent.calls)
    except ProviderError:
        assert habit == "wider" or not isolate
    assert (spent.tokens, spent.calls) == (server.billed, len(server.bodies))
    assert spent.tokens >= 60


def test_the_request_for_the_width_is_counted(server: CompatibleServer, connect: Connect) -> None:
    provider = connect()
    assert provider.dimensions == WIDTH
    first, second = provider.embed(texts(2)), provider.embed(texts(2))
    assert first.tokens + second.tokens == server.billed
    assert (first.calls, second.calls) == (2, 1)


# Refusals


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"error": {"message": "Invalid model name passed in model=m. Call `/v1/models` for your key."}}, "MODEL"),
        ({"error": {"message": "The model `m` does not exist", "code": "400"}}, "MODEL"),
        ({"error": "model 'm' not found, try pulling it first"}, "MODEL"),
        ({"detail": "model m is not available"}, "MODEL"),
        ({"error": {"message": "No connected db.", "type": "no_db_connection"}}, "KEY"),
        (
            {"error": {"message": "Authentication Error, Invalid proxy server token passed", "type": "auth_error"}},
            "KEY",
        ),
        ({"error": {"message": "Incorrect API key provided"}}, "KEY"),
        ({"message": "API key is missing"}, "KEY"),
        ({"error": {"message": "something is wrong"}}, "something is wrong"),
        ({}, "no reason given"),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_a_wrong_key_or_model_is_not_reported_as_an_error_of_the_text(
    status: int, body: object, named: str, server: CompatibleServer, connect: Connect
) -> None:
    server.refusal = (status, body)
    for isolate in (True, False):
        with pytest.raises(ProviderRejected, match=named) as raised:
            connect(dimensions=WIDTH).embed(texts(5), isolate=isolate)
        assert "text" not in raised.value.message
        assert isinstance(raised.value, ProviderInputRejected) == (not isolate and named.islower())


def test_a_text_with_a_key_in_it_is_refused_alone(server: CompatibleServer, connect: Connect) -> None:
    server.refusal = (400, {"error": {"message": "blocked: the input contains an API key"}})
    with pytest.raises(ProviderInputRejected):
        connect(dimensions=WIDTH).embed(["a"])


# Queries and documents


def test_prefixes_of_the_settings_are_put_before_queries_and_documents(
    server: CompatibleServer, connect: Connect
) -> None:
    provider = connect(dimensions=WIDTH, rules=InputRules("query: ", "passage: "))
    provider.embed_query("a")
    provider.embed_documents(["b"])
    assert server.inputs == ["query: a", "passage: b"]
    assert all("input_type" not in body for body in server.bodies)


def test_input_types_are_sent_if_they_are_set(server: CompatibleServer, connect: Connect) -> None:
    provider = connect(rules=InputRules(types=("query", "passage")))
    provider.embed_query("a")
    provider.embed_documents(["b"])
    assert [body["input_type"] for body in server.bodies] == ["passage", "query", "passage"]
    assert server.inputs == ["music", "a", "b"]
