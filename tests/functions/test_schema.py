"""Compares the OpenAPI document with the running server, using schemathesis."""

import re
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.functions.conftest import API_KEY, JWT_SECRET, KEYS, WEBHOOK_SECRET, Insert

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def hold(operation: Any, base_url: str, secret: str, examples: int) -> None:
    """Send valid and invalid requests to one operation and check each answer."""

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    @hypothesis.given(case=operation.as_strategy())
    def check(case: Case) -> None:
        case.call_and_validate(base_url=base_url, headers={"Authorization": f"Bearer {secret}"}, checks=CHECKS)

    check()


# The server is a thread of this process, and the pool of its connections uses `random`.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
@pytest.mark.parametrize("examples", [8, pytest.param(40, marks=pytest.mark.drill)])
def test_every_answer_conforms_to_the_openapi_document_for_any_input(
    keyed: httpx.Client, insert: Insert, examples: int
) -> None:
    row = insert("a harp solo", topic="harp", category="strings")
    schema = schemathesis.openapi.from_dict(keyed.get("/openapi.json").json())
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        secret = WEBHOOK_SECRET if "webhooks" in operation.path else API_KEY
        hold(operation, str(keyed.base_url).rstrip("/"), secret, examples)
        tried += 1
    assert tried >= 13
    assert keyed.get("/health").status_code == 200
    found = keyed.get("/api/search/music_knowledge?q=harp").json()["hits"]
    assert row in {hit["id"] for hit in found}, "the rows are still there"


def test_the_openapi_document_describes_authentication_and_contains_no_secret(client: httpx.Client) -> None:
    answer = client.get("/openapi.json")
    schemes = answer.json()["components"]["securitySchemes"]
    assert set(schemes) == {"FunctionsKey", "WebhookSecret", "CallerToken"}
    for path, methods in answer.json()["paths"].items():
        for operation in methods.values():
            assert "4XX" in operation["responses"], path
            assert "5XX" in operation["responses"], path
    for secret in (API_KEY, WEBHOOK_SECRET, JWT_SECRET, KEYS["Authorization"]):
        assert secret not in answer.text


def test_docs_loads_everything_from_this_server(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    named = [path for path in re.findall(r'(?:src|href)="([^"]+)"', page.text) if path != "data:,"]
    assert len(named) == 3
    for path in named:
        answer = client.get(path)
        assert (answer.status_code, answer.headers.get("content-encoding")) == (200, "gzip") or path.endswith(
            "start.js"
        )
        assert "script-src 'self';" in answer.headers["content-security-policy"], path
        assert answer.text


@pytest.mark.parametrize("path", ["/redoc", "/docs/redoc.standalone.js", "/docs/..%2fcore.py", "/docs/swagger-ui.map"])
def test_docs_serves_no_other_files(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, set(answer.json())) == (404, {"error"})
