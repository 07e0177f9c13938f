"""Translates every exception of the OpenAI SDK into an error of shared/errors.py.

It uses attributes and class names instead of the classes, because importing the SDK is slow. A test compares the names
with the classes of the installed version.
"""

import re
import time
from collections.abc import Sequence

from shared.errors import (
    ProviderContractError,
    ProviderCrashed,
    ProviderError,
    ProviderFormatRefused,
    ProviderInputRejected,
    ProviderInputTooLong,
    ProviderQuotaExceeded,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
)
from shared.providers.reasons import chain_of, distrust, plain_reason, redirect_host, refusal_text
from shared.retry import parse_retry_after

_TOO_LONG = re.compile(
    r"maximum (?:context|input) length|max(?:imum)?[_ ]tokens[_ ]per[_ ]request|max \d+ tokens per request|"
    r"request too large|too many tokens|must have less than \d+ tokens|too large to process",
    re.IGNORECASE,
)
_NO_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
# Gateways and compatible servers answer 400 for a wrong model or key, each with its own message.
_WRONG_MODEL = re.compile(
    r"\b(?:invalid|unknown|unsupported|wrong|no such) (?:embedding )?model\b|\bnot an embedding model\b|"
    r"\bmodel\b(?: name)?[:=]? ?['\"`]?[\w./:@#-]*['\"`]? (?:is |was |does )?"
    r"(?:doesn't exist|not (?:exist|found|available|supported|loaded|served|valid|support embedding))",
    re.IGNORECASE,
)
_CREDENTIAL = r"(?:api[ _-]?key|(?:access|api|auth|bearer) token|credentials)"
_WRONG_KEY = re.compile(
    rf"\b(?:invalid|incorrect|missing|wrong|expired|unknown|no|provide)\b[^.]{{0,30}}\b{_CREDENTIAL}\b|"
    rf"\b{_CREDENTIAL}\b[^.]{{0,30}}\b(?:invalid|incorrect|missing|wrong|expired|required|not (?:valid|found|set))\b|"
    r"\bauthentication\b|\bunauthori[sz]ed\b|\bno connected db\b",
    re.IGNORECASE,
)
_KEY_CODES = {"invalid_api_key", "auth_error", "authentication_error", "no_db_connection"}
# Matches the refusal of a server that returns vectors only as numbers, not as base64.
_WRONG_FORMAT = re.compile(r"encoding_format|base64", re.IGNORECASE)


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
    reason = plain_reason(refusal_text(getattr(error, "body", None)), inputs=inputs, secrets=[key])
    about = getattr(error, "param", None)
    if status == 404 or "model_not_found" in code or about == "model":
        return _no_model(server, status, model, purpose)
    if status == 402 or code & _NO_QUOTA:
        return ProviderQuotaExceeded(f"the account at {server} has no quota left: check its plan and billing")
    message = str(getattr(error, "message", ""))
    if status in (400, 413, 422, 429) and _TOO_LONG.search(message):
        return _too_long(message)
    if status in (400, 413, 422):
        refused = f"(HTTP {status}): {reason}"
        if about == "dimensions":
            return ProviderRejected(f"{model} cannot return that width: check EMBEDDING_DIMENSIONS ({reason})")
        if purpose == "EMBEDDING" and _WRONG_FORMAT.search(reason):
            return ProviderFormatRefused(f"the provider refused the request {refused}")
        if _WRONG_MODEL.search(reason):
            return _no_model(server, status, model, purpose)
        if code & _KEY_CODES or _WRONG_KEY.search(reason):
            return ProviderRejected(f"{server} refused the key (HTTP {status}): check OPENAI_API_KEY ({reason})")
        return ProviderInputRejected(f"the provider refused the request {refused}")
    if status == 408:
        timeout = ProviderTimeout(f"{server} did not answer in time (HTTP 408)")
        timeout.billed = 0
        return timeout
    precise = parse_retry_after(headers.get("retry-after-ms"), time.time())
    retry_after = parse_retry_after(headers.get("retry-after"), time.time()) if precise is None else precise / 1000
    if status == 429:
        return ProviderRateLimited(f"{server} asks to slow down (HTTP 429)", retry_after=retry_after)
    if status == 500:
        return ProviderCrashed(f"{server} failed on the request (HTTP 500)", retry_after=retry_after)
    # With 409 the server says that it could not get a lock. The SDK's own retries include it too.
    if status > 500 or status == 409:
        return ProviderUnavailable(f"{server} is failing (HTTP {status})", retry_after=retry_after)
    return ProviderRejected(f"{server} refused the request (HTTP {status}): check OPENAI_BASE_URL")


def _unanswered(error: Exception, names: set[str], server: str) -> ProviderError:
    """The error for a request without an answer, or with an unreadable one; `names` are the exception's class names."""
    if isinstance(error, RecursionError):
        return ProviderUnavailable(f"{server} sent an unreadable answer; if this happens again, check OPENAI_BASE_URL")
    causes = {type(cause).__name__ for cause in chain_of(error)}
    if "APITimeoutError" in names:
        timeout = ProviderTimeout(f"{server} did not answer in time")
        timeout.billed = 0 if causes & {"ConnectTimeout", "PoolTimeout"} else None
        return timeout
    if "APIResponseValidationError" in names or isinstance(error, ValueError) or "DecodingError" in causes:
        return ProviderContractError(f"{server} did not answer in OpenAI's format: check OPENAI_BASE_URL")
    if "APIConnectionError" not in names:
        return ProviderRejected(f"the openai package refused to send the request ({type(error).__name__})")
    if untrusted := distrust(error, server, "OPENAI_BASE_URL"):
        return untrusted
    if causes & {"UnsupportedProtocol", "InvalidURL"}:
        return ProviderRejected(f"{server} is not an address to connect to: check OPENAI_BASE_URL")
    away = ProviderUnavailable(f"cannot reach {server}: check the network and OPENAI_BASE_URL")
    # The connection broke after the request was sent, so the server may have done the work.
    away.billed = None if causes & {"ReadError", "RemoteProtocolError"} else 0
    return away


def _no_model(server: str, status: int, model: str, purpose: str) -> ProviderError:
    wanted = f"{'chat' if purpose == 'GENERATION' else 'embedding'} model {model}"
    return ProviderRejected(f"{server} has no {wanted} (HTTP {status}): check {purpose}_MODEL and OPENAI_BASE_URL")


def _too_long(message: str) -> ProviderInputTooLong:
    limit = re.search(r"(?:length is|max) (\d+) tokens", message)
    counted = re.search(r"requested (?:about )?(\d+)", message, re.IGNORECASE)
    return ProviderInputTooLong(
        "the text is longer than the model reads",
        tokens=int(counted[1]) if counted else None,
        limit=int(limit[1]) if limit else None,
    )
