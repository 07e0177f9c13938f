"""Answers the events of Lambda: REST and HTTP APIs, load balancers, function URLs, and warm-up calls."""

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI
from mangum import Mangum

from functions.http.answer_limit import MAX_ANSWER_BYTES, AnswerTooLarge
from functions.http.errors import error_response
from shared.errors import AppError, InvalidRequest

log = logging.getLogger(__name__)

# A body of fewer bytes is within the limit, even if JSON escapes every character.
_SURELY_FITS = MAX_ANSWER_BYTES // 6


class LambdaHandler:
    """The handler of one function. Importing it reads no setting."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        # Mangum would run a lifespan at every invocation.
        self._mangum = Mangum(app, lifespan="off")

    def __call__(self, event: Any, context: Any) -> dict[str, Any]:
        """Answer an HTTP event; a warm-up, scheduled or empty event gets 200. Raises InvalidRequest for any other event."""
        if not event or (
            any(name in event for name in ("source", "warmer", "warmup")) and "requestContext" not in event
        ):
            return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": "{}"}
        request = event.get("requestContext")
        if not isinstance(request, Mapping) or not ("http" in request or "httpMethod" in event):
            raise InvalidRequest("this function answers HTTP events; functions.worker takes tasks and the schedule")
        event = _with_route(event, self._base_path())
        return _bounded(event, self._mangum(event, context))

    def _base_path(self) -> str:
        try:
            return self._app.state.services.settings.api_base_path or ""
        except AppError:
            # The settings are wrong. RequestMiddleware reads them again and answers with the error.
            return ""


def _with_route(event: Mapping[str, Any], base_path: str) -> dict[str, Any]:
    """The event with the path that the routes expect: without the name of the stage and without API_BASE_PATH."""
    request = event["requestContext"]
    if "http" not in request:
        return {**event, "path": _without(base_path, event["path"] or "/")}
    path = request["http"]["path"]
    # Only AWS's own domain has the stage in its paths, a custom domain does not.
    if request.get("stage", "$default") != "$default" and ".execute-api." in request.get("domainName", ""):
        path = _without(f"/{request['stage']}", path)
    path = _without(base_path, path)
    return {**event, "rawPath": path, "requestContext": {**request, "http": {**request["http"], "path": path}}}


def _without(prefix: str, path: str) -> str:
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        return path[len(prefix) :] or "/"
    return path


def _bounded(event: Mapping[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """Return the answer. If it is too large for Lambda, return an error that says how much to ask for."""
    body = answer.get("body") or ""
    size = len(body) if len(body) < _SURELY_FITS else len(orjson.dumps(body))
    if size <= MAX_ANSWER_BYTES:
        return answer
    request = event["requestContext"]
    path = request["http"]["path"] if "http" in request else event["path"]
    method = request["http"]["method"] if "http" in request else event["httpMethod"]
    error = AnswerTooLarge(_advice(answer, body, size, method))
    log.warning("%s: %s", path, error.message)
    refused = error_response(error, path)
    headers = {"content-type": "application/json"}
    for name in ("x-request-id", "access-control-allow-origin"):
        if value := (answer.get("headers") or {}).get(name):
            headers[name] = value
    replaced = {**answer, "statusCode": refused.status_code, "body": bytes(refused.body).decode()}
    replaced["isBase64Encoded"] = False
    if "headers" in answer:
        replaced["headers"] = headers
    if "multiValueHeaders" in answer:
        # A load balancer reads either `headers` or `multiValueHeaders`, a REST API reads both.
        replaced["multiValueHeaders"] = (
            {} if "headers" in answer else {name: [value] for name, value in headers.items()}
        )
    return replaced


def _advice(answer: Mapping[str, Any], body: str, size: int, method: str) -> str:
    too_large = f"the answer has {size / 1e6:.1f} MB, but Lambda can send only {MAX_ANSWER_BYTES / 1e6:.1f}"
    found = {} if answer.get("isBase64Encoded") else orjson.loads(body)
    hits = found.get("hits") if isinstance(found, dict) else None
    if isinstance(hits, list) and len(hits) > 1:
        field = "limit" if method == "GET" else "match_count"
        # Calculate with the size of the largest hit, because the largest hits may come first.
        largest = max(len(orjson.dumps(orjson.dumps(hit).decode())) for hit in hits)
        fits = max(1, MAX_ANSWER_BYTES // (largest + 1))
        return f"{field}: {too_large}; ask for at most {min(fits, len(hits) - 1)}"
    return f"{too_large}; ask for less"
