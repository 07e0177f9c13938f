"""Translates every exception of the OpenAI SDK into an error of shared/errors.py.

Uses attributes and class names, because importing the SDK is slow; a test compares the names with the classes of the
installed version.
"""

import re
import time
from collections.abc import Sequence

from shared.errors import (
    ProviderContractError,
    ProviderCrashed,
    ProviderError,
    ProviderInputRejected,
    ProviderInputTooLong,
    ProviderQuotaExceeded,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
)
from shared.providers.reasons import chain_of, distrust, plain_reason, redirect_host
from shared.retry import parse_retry_after

_TOO_LONG = re.compile(
    r"maximum (?:context|input) length|max(?:imum)?[_ ]tokens[_ ]per[_ ]request|max \d+ tokens per request|"
    r"request too large|too many tokens|must have less than \d+ tokens|too large to process",
    re.IGNORECASE,
)
_NO_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}


def translate_openai_error(
    error: Exception, inputs: Sequence[str], *, server: str, model: str, key: str, purpose: str = "EMBEDDING"
) -> ProviderError:
    """Translate an exception of the SDK. `purpose` is EMBEDDING or GENERATION, the prefix of the named setting."""
    status = getattr(error, "status_code", None)
    names = {base.__name__ for base in type(error).__mro__}
    if not isinstance(status, int) or "APIResponseValidationError" in names:
        return _unanswered(error, names, server)
    headers = getattr(getattr(error, "response", None), "headers", {})
    if 300 <= status < 400:
        place = redirect_host(headers)
        return ProviderRejected(f"{server} points to {place} (HTTP {status}), not followed: check OPENAI_BASE_URL")
    if status in (401, 403):
        return ProviderRejected(f"{server} refused the key (HTTP {status}): check OPENAI_API_KEY")
    code = {str(getattr(error, "code", None)), str(getattr(error, "type", None))}
    if status == 404 or "model_not_found" in code or getattr(error, "param", None) == "model":
        wanted = f"{'chat' if purpose == 'GENERATION' else 'embedding'} model {model}"
        return ProviderRejected(f"{server} has no {wanted} (HTTP {status}): check {purpose}_MODEL and OPENAI_BASE_URL")
    if status == 402 or code & _NO_QUOTA:
        return ProviderQuotaExceeded(f"the account at {server} has no quota left: check its plan and billing")
    message = str(getattr(error, "message", ""))
    if status in (400, 413, 422, 429) and _TOO_LONG.search(message):
        return _too_long(message)
    if status in (400, 413, 422):
        body = getattr(error, "body", None)
        reason = plain_reason(body.get("message") if isinstance(body, dict) else None, inputs=inputs, secrets=[key])
        if getattr(error, "param", None) == "dimensions":
            return ProviderRejected(f"{model} cannot return that width: check EMBEDDING_DIMENSIONS ({reason})")
        return ProviderInputRejected(f"the provider refused the text (HTTP {status}): {reason}")
    if status == 408:
        return ProviderTimeout(f"{server} did not answer in time (HTTP 408)")
    precise = parse_retry_after(headers.get("retry-after-ms"), time.time())
    retry_after = parse_retry_after(headers.get("retry-after"), time.time()) if precise is None else precise / 1000
    if status == 429:
        return ProviderRateLimited(f"{server} asks to slow down (HTTP 429)", retry_after=retry_after)
    if status == 500:
        return ProviderCrashed(f"{server} failed on the request (HTTP 500)", retry_after=retry_after)
    # 409: the server could not get a lock; the SDK's own loop retries it as well.
    if status > 500 or status == 409:
        return ProviderUnavailable(f"{server} is failing (HTTP {status})", retry_after=retry_after)
    return ProviderRejected(f"{server} refused the request (HTTP {status}): check OPENAI_BASE_URL")


def _unanswered(error: Exception, names: set[str], server: str) -> ProviderError:
    """The error for a request without an answer, or with an unreadable one; `names` are the exception's class names."""
    if isinstance(error, RecursionError):
        return ProviderUnavailable(f"{server} sent an unreadable answer; if it goes on, check OPENAI_BASE_URL")
    if "APITimeoutError" in names:
        return ProviderTimeout(f"{server} did not answer in time")
    causes = {type(cause).__name__ for cause in chain_of(error)}
    if "APIResponseValidationError" in names or isinstance(error, ValueError) or "DecodingError" in causes:
        return ProviderContractError(f"{server} did not answer in OpenAI's format: check OPENAI_BASE_URL")
    if "APIConnectionError" not in names:
        return ProviderRejected(f"the openai package refused to send the request ({type(error).__name__})")
    if untrusted := distrust(error, server, "OPENAI_BASE_URL"):
        return untrusted
    if causes & {"UnsupportedProtocol", "InvalidURL"}:
        return ProviderRejected(f"{server} is not an address to connect to: check OPENAI_BASE_URL")
    return ProviderUnavailable(f"cannot reach {server}: check the network and OPENAI_BASE_URL")


def _too_long(message: str) -> ProviderInputTooLong:
    limit = re.search(r"(?:length is|max) (\d+) tokens", message)
    counted = re.search(r"requested (?:about )?(\d+)", message, re.IGNORECASE)
    return ProviderInputTooLong(
        "the text is longer than the model reads",
        tokens=int(counted[1]) if counted else None,
        limit=int(limit[1]) if limit else None,
    )
