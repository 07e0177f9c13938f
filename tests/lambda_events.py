"""Events of API Gateway, and what a handler answered to one."""

import base64
import json
from typing import Any

from tests.lambda_runtime import Outcome


def http_event(
    method: str,
    path: str,
    body: object = None,
    headers: dict[str, str] | None = None,
    *,
    query: str = "",
    encoded: bool = False,
) -> dict[str, Any]:
    """An event of an HTTP API, payload format 2.0."""
    text = None if body is None else json.dumps(body)
    return {
        "version": "2.0",
        "routeKey": f"ANY {path}",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {
            "host": "a.execute-api.eu-central-1.amazonaws.com",
            "content-type": "application/json",
            **(headers or {}),
        },
        "requestContext": {
            "accountId": "1",
            "apiId": "a",
            "domainName": "a.execute-api.eu-central-1.amazonaws.com",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "1.2.3.4", "userAgent": "t"},
            "requestId": "r",
            "stage": "$default",
            "time": "21/Nov/2026:00:00:00 +0000",
            "timeEpoch": 1,
        },
        "body": base64.b64encode(text.encode()).decode() if encoded and text else text,
        "isBase64Encoded": encoded,
    }


def rest_event(
    method: str, path: str, body: object = None, headers: dict[str, str] | None = None, *, encoded: bool = False
) -> dict[str, Any]:
    """An event of a REST API, version 1.0."""
    sent = {"Host": "a.execute-api.eu-central-1.amazonaws.com", "Content-Type": "application/json", **(headers or {})}
    text = None if body is None else json.dumps(body)
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": sent,
        "multiValueHeaders": {name: [value] for name, value in sent.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {
            "resourcePath": "/{proxy+}", "httpMethod": method, "path": path, "stage": "prod", "requestId": "r",
            "identity": {"sourceIp": "1.2.3.4"}, "apiId": "a",
        },
        "body": base64.b64encode(text.encode()).decode() if encoded and text else text,
        "isBase64Encoded": encoded,
    }  # fmt: skip


def answered(outcome: Outcome) -> tuple[int, Any]:
    assert outcome.error is None, outcome.error
    body = outcome.answer["body"]
    if outcome.answer.get("isBase64Encoded"):
        body = base64.b64decode(body)
    return outcome.answer["statusCode"], json.loads(body)
