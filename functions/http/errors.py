"""Turns errors into HTTP answers."""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from shared.errors import (
    AppError,
    BudgetSpent,
    ConfigurationError,
    DatabaseError,
    InvalidRequest,
    NotFound,
    RequestTooLarge,
    Unauthorized,
)
from shared.logs import request_id

log = logging.getLogger(__name__)


class ErrorDetail(BaseModel):
    code: str = Field(examples=["invalid_request"])
    message: str = Field(examples=["body.query: Field required"])
    request_id: str | None = Field(examples=["5f0c6a1e8c0f4d1f9d2a7b3c4e5f6071"])


class ErrorAnswer(BaseModel):
    """The body of every error, except on the routes below /v1/."""

    error: ErrorDetail


# Every route declares these answers: errors have one shape for every status.
ERROR_RESPONSES: dict[int | str, dict[str, object]] = {
    "4XX": {"model": ErrorAnswer, "description": "The request is wrong, or not allowed."},
    "5XX": {"model": ErrorAnswer, "description": "The server, its database or its provider failed."},
}


class MethodNotAllowed(AppError, code="method_not_allowed", status=405):
    """The path does not take this method."""


_FIELD = re.compile(r"(?!body: )(?:body\.)?([a-z_]+): ")

# Seconds in Retry-After if the error has none. The call was retried already, so the outage may last.
RETRY_AFTER_SECONDS = 5

# OpenAI's error type for a status.
_OPENAI_TYPES: Mapping[int, str] = {401: "invalid_request_error", 403: "permission_error", 429: "rate_limit_error"}


def install(app: FastAPI) -> None:
    """Handle AppError and FastAPI's own errors. RequestMiddleware handles unexpected errors."""
    app.add_exception_handler(AppError, _on_app_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_exception)


async def _on_app_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    return error_response(error, request.url.path)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    # Name the first few fields. Never repeat the input: it may be a row's text.
    text = "; ".join(_describe(problem) for problem in problems[:3])
    if len(problems) > 3:
        text += f"; and {len(problems) - 3} more"
    # For a body that is not JSON the location is an offset, not a parameter.
    param = None if problems[0]["type"] == "json_invalid" else _name(problems[0]["loc"][1:])
    return error_response(InvalidRequest(text), request.url.path, param=param or None)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    if status == 413:
        known: AppError = RequestTooLarge(error.detail)
    else:
        # FastAPI raises any other status only for a body that it could not read.
        known = {404: NotFound(), 405: MethodNotAllowed()}.get(status, InvalidRequest("body: it cannot be read"))
    response = error_response(known, request.url.path, status=status)
    response.headers.update(error.headers or {})
    return response


def error_response(error: AppError, path: str, *, status: int | None = None, param: str | None = None) -> Response:
    """The answer for an error. A message about the server's own state is only logged, not sent."""
    status = status or error.status
    message = error.message
    if isinstance(error, ConfigurationError) or (isinstance(error, DatabaseError) and status >= 500):
        log.error("%s: %s", error.code, message)
        message = type(error)().message
    headers = {}
    retry_after = error.retry_after
    if retry_after is None and error.retryable and status in (503, 504):
        retry_after = RETRY_AFTER_SECONDS
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    body: dict[str, object] = {"code": error.code, "message": message, "request_id": request_id.get()}
    if path.startswith("/v1/"):
        # OpenAI's clients raise BadRequestError for 400; 422 is not a status of that API.
        status = 400 if status == 422 else status
        kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        code = "invalid_api_key" if status == 401 else error.code
        if isinstance(error, BudgetSpent):
            kind = code = "insufficient_quota"
            # OpenAI's clients would try again at once, because the wait is longer than a minute.
            headers["x-should-retry"] = "false"
        # Messages about a field begin with its name.
        named = _FIELD.match(message)
        body = {"message": message, "type": kind, "param": param or (named[1] if named else None), "code": code}
    return Response(orjson.dumps({"error": body}), status, headers, "application/json")


def _describe(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "json_invalid":
        return "body: it is not valid JSON"
    return f"{_name(problem['loc'])}: {problem['msg'].removeprefix('Value error, ')}"


def _name(location: Sequence[object]) -> str:
    return ".".join(str(part) for part in location)
