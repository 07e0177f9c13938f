"""Every shape of event that reaches the handlers, and answers that Lambda could not carry, under the real runtime client."""

import json
import re
from typing import Any

import pytest

from tests.conftest import Connection
from tests.functions.conftest import KEYS
from tests.lambda_events import answered, http_event, rest_event
from tests.lambda_runtime import Start

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
    """The event of another domain."""
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


@pytest.mark.parametrize("kind", ["http", "rest", "balancer"])
def test_vectors_that_lambda_cannot_carry_are_refused_with_the_number_that_fits(start: Start, kind: str) -> None:
    make = {"http": http_event, "rest": rest_event, "balancer": balancer_event}[kind]
    function = start("openai_embeddings")
    body: dict[str, Any] = {"model": "text-embedding-3-small", "input": ["a harp"] * 400}
    status, answer = answered(function.invoke(make("POST", "/v1/embeddings", body, KEYS)))
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (413, "answer_too_large", "input")
    body["input"] = body["input"][: number_in(answer["error"]["message"])]
    outcome = function.invoke(make("POST", "/v1/embeddings", body, KEYS))
    assert answered(outcome)[0] == 200
    assert CARRIED * 0.8 < len(json.dumps(outcome.answer)) < 6_291_556


def test_hits_that_lambda_cannot_carry_are_refused_with_the_number_that_fits(start: Start, owner: Connection) -> None:
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
