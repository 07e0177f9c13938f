"""Translates every failure of a request to Ollama into an error of shared/errors.py."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared.errors import (
    ProviderContractError,
    ProviderCrashed,
    ProviderError,
    ProviderInputRejected,
    ProviderInputTooLong,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
)
from shared.providers.reasons import distrust, plain_reason, redirect_host
from shared.retry import parse_retry_after

if TYPE_CHECKING:
    import httpx


def translate_unanswered(error: Exception, *, server: str, timeout: float) -> ProviderError:
    """The error for an exception of httpx: the request got no answer."""
    kinds = {base.__name__ for base in type(error).__mro__}
    if kinds & {"UnsupportedProtocol", "InvalidURL", "LocalProtocolError", "TooManyRedirects", "CookieConflict"}:
        return ProviderRejected(f"{server} is not an address to connect to: check OLLAMA_URL")
    if untrusted := distrust(error, server, "OLLAMA_URL"):
        return untrusted
    if "ConnectTimeout" not in kinds and "TimeoutException" in kinds:
        return ProviderTimeout(f"Ollama at {server} did not answer within {timeout:.0f} s")
    if "DecodingError" in kinds:
        return ProviderContractError(f"{server} did not answer in Ollama's format: check OLLAMA_URL")
    away = ProviderUnavailable(f"cannot reach Ollama at {server}: start it with `ollama serve`, or check OLLAMA_URL")
    # The connection broke after the request was sent, so the server may have done the work.
    away.billed = None if kinds & {"ReadError", "RemoteProtocolError"} else 0
    return away


def translate_refused(
    response: "httpx.Response",
    answer: Mapping[str, Any],
    inputs: Sequence[str],
    *,
    server: str,
    model: str,
    purpose: str,
) -> ProviderError:
    """The error for a failed response, by the object in its body. `purpose` is EMBEDDING or GENERATION."""
    status, headers = response.status_code, response.headers
    if 300 <= status < 400:
        return ProviderRejected(
            f"{server} points to {redirect_host(headers)} (HTTP {status}), not followed: check OLLAMA_URL"
        )
    said = str(answer.get("error", "")).lower()
    reason = plain_reason(answer.get("error"), inputs=inputs)
    if status == 404 and "error" in answer:
        return ProviderRejected(f"Ollama at {server} does not have the model {model}: run `ollama pull {model}`")
    if "context length" in said or "too large to process" in said:
        return ProviderInputTooLong("the text is longer than the model reads")
    if "does not support" in said or "more system memory" in said:
        doing = "chat" if purpose == "GENERATION" else "embed"
        return ProviderRejected(f"Ollama cannot {doing} with {model}, check {purpose}_MODEL: {reason}")
    # Ollama answers 500 if a vector has NaN, although the text is the cause and every retry would fail too.
    if status in (400, 413, 422) or "value: nan" in said or "contains nan" in said:
        return ProviderInputRejected(f"Ollama refused the request (HTTP {status}): {reason}")
    retry_after = parse_retry_after(headers.get("retry-after"), time.time())
    if status == 429:
        return ProviderRateLimited(f"Ollama at {server} asks to slow down", retry_after=retry_after)
    if status == 408:
        late = ProviderTimeout(f"Ollama at {server} did not answer in time (HTTP 408)")
        late.billed = 0
        return late
    if status == 500:
        return ProviderCrashed(f"Ollama at {server} failed on the request: {reason}", retry_after=retry_after)
    if status > 501:
        return ProviderUnavailable(f"Ollama at {server} is failing (HTTP {status})", retry_after=retry_after)
    return ProviderRejected(
        f"{server} refused the request (HTTP {status}): check OLLAMA_URL, and that it is Ollama 0.3 or later"
    )
