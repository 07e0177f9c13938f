"""Tests every kind of event that reaches the handlers, and answers that are too large for Lambda, with the real client."""

import json
import re
from typing import Any

import pytest

from tests.conftest import Connection
from tests.functions.conftest import KEYS
from tests.lambda_events import answered, http_event, rest_event
from tests.lambda_runtime import Start
from tests.protocol_server import ProtocolServer

EMBED = {"batch_id": "b", "chunks": [{"chunk_id": "c", "content": "a harp"}]}
CARRIED = 5_500_000


def balancer_event(method: str, path: str, body: object, headers: dict[str, str]) -> dict[str, Any]:
    """An event of an application load balancer."""
    return {
        "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:eu-central-1:1:targetgroup/t/1"}},
        "httpMethod": method,
        "path": path,
        "queryStringParameters": {},
        "headers": {"host": "b", "content-type": "application/json", "x-forwarded-for": "1.2.3.4", **headers},
        "body": json.dumps(body),
        "isBase64Encoded": False,
    }


def with_stage(event: dict[str, Any], stage: str) -> dict[str, Any]:
    """The event of an HTTP API with a named stage, which is part of the path."""
    path = f"/{stage}{event['rawPath']}"
    request = event["requestContext"]
    request = {**request, "stage": stage, "http": {**request["http"], "path": path}}
    return {**event, "rawPath": path, "requestContext": request}


def with_domain(event: dict[str, Any], domain: str) -> dict[str, Any]:
    """The event with another domain."""
    return {**event, "requestContext": {**event["requestContext"], "domainName": domain}}


def test_every_kind_of_gateway_reaches_the_route(start: Start) -> None:
    function = start("embed", API_BASE_PATH="/music/")
    plain = http_event("POST", "/embed", EMBED, KEYS)
    events = [
        plain,
        with_stage(plain, "prod"),
        with_domain(plain, "a.lambda-url.eu-central-1.on.aws"),
        with_domain(http_event("POST", "/music/embed", EMBED, KEYS), "api.example.org"),
        with_stage(http_event("POST", "/music/embed", EMBED, KEYS), "prod"),
        rest_event("POST", "/embed", EMBED, KEYS),
        rest_event("POST", "/music/embed", EMBED, KEYS),
        {"version": "1.0", **rest_event("POST", "/music/embed", EMBED, KEYS)},
        balancer_event("POST", "/embed", EMBED, KEYS),
        balancer_event("POST", "/music/embed", EMBED, KEYS),
    ]
    assert [answered(function.invoke(event))[0] for event in events] == [200] * len(events)
    # A stage is part of the path only at the API's own address.
    staged = with_domain(with_stage(plain, "prod"), "api.example.org")
    assert answered(function.invoke(staged))[0] == 404


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"source": "serverless-plugin-warmup"},
        {"warmer": True},
        {"source": "aws.events", "detail-type": "Scheduled Event"},
    ],
)
def test_warm_up_and_empty_events_answer_200(start: Start, event: dict[str, Any]) -> None:
    outcome = start("health", DATABASE_URL="postgresql://127.0.0.1:1/none").invoke(event)
    assert outcome.error is None
    assert outcome.answer["statusCode"] == 200


def test_an_event_of_another_service_is_an_error_that_names_the_worker(start: Start) -> None:
    outcome = start("health").invoke({"Records": [{"eventSource": "aws:sqs", "body": "x"}]})
    assert "functions.worker" in outcome.error["errorMessage"]


def chunks(count: int) -> dict[str, Any]:
    # Each quote and each backslash takes several bytes in the answer.
    return {"chunks": [{"chunk_id": f'"{number}' + "\\" * 500, "content": "a harp"} for number in range(count)]}


def texts(count: int) -> dict[str, Any]:
    return {"input": ["a harp"] * count}


@pytest.mark.parametrize(
    ("kind", "name", "model", "make", "count", "more"),
    [
        ("http", "openai_embeddings", "text-embedding-3-small", texts, 400, {}),
        ("rest", "openai_embeddings", "text-embedding-3-small", texts, 700, {"encoding_format": "base64"}),
        ("balancer", "openai_embeddings", "text-embedding-3-large", texts, 900, {"dimensions": 512}),
        ("http", "embed", "text-embedding-3-large", chunks, 256, {"batch_id": "b"}),
    ],
)
def test_vectors_too_large_for_lambda_are_refused_before_the_provider_is_called(
    start: Start, openai_server: ProtocolServer, kind: str, name: str, model: str, make: Any, count: int, more: Any
) -> None:
    event = {"http": http_event, "rest": rest_event, "balancer": balancer_event}[kind]
    function = start(name, EMBEDDING_MODEL=model)
    path, of_model = ("/embed", {}) if name == "embed" else ("/v1/embeddings", {"model": model})
    status, answer = answered(function.invoke(event("POST", path, {**make(count), **of_model, **more}, KEYS)))
    error = answer["error"]
    assert (status, error["code"]) == (413, "answer_too_large")
    assert error["message"].startswith("chunks: " if name == "embed" else "input: ")
    assert openai_server.calls == []
    outcome = function.invoke(event("POST", path, {**make(number_in(error["message"])), **of_model, **more}, KEYS))
    assert answered(outcome)[0] == 200
    assert CARRIED * 0.9 < len(json.dumps(outcome.answer)) < 6_291_556


def test_an_answer_of_unknown_size_is_refused_afterwards(start: Start, owner: Connection) -> None:
    # The answer has a single hit, so the caller cannot ask for fewer.
    owner.execute("insert into public.music_knowledge (topic, content) select 'harp', repeat('\"ü ', 900000)")
    event = http_event("POST", "/api/search/music_knowledge", {"query": "harp", "match_count": 1})
    status, answer = answered(start("search").invoke(event))
    assert (status, answer["error"]["code"]) == (413, "answer_too_large")
    assert answer["error"]["message"].endswith("ask for less")


def test_hits_too_large_for_lambda_are_refused_with_the_number_that_fits(start: Start, owner: Connection) -> None:
    owner.execute(
        "insert into public.music_knowledge (topic, content) select 'harp', repeat('\"ü ', 12000) from generate_series(1, 100)"
    )
    function = start("search")
    path = "/api/search/music_knowledge"
    status, answer = answered(function.invoke(http_event("POST", path, {"query": "harp", "match_count": 100})))
    assert (status, answer["error"]["code"]) == (413, "answer_too_large")
    assert answer["error"]["message"].startswith("match_count: ")
    fits = number_in(answer["error"]["message"])
    assert 1 < fits < 100
    assert answered(function.invoke(http_event("POST", path, {"query": "harp", "match_count": fits})))[0] == 200
    status, answer = answered(function.invoke(http_event("GET", path, query="q=harp&limit=100")))
    assert answer["error"]["message"].startswith("limit: ")


def number_in(message: str) -> int:
    match = re.search(r"ask for at most (\d+)$", message)
    assert match is not None, message
    return int(match[1])
