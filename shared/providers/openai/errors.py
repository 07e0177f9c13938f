"""What each failure of the OpenAI SDK means for us.

Works on attributes and class names, so that nothing here imports the SDK: it is slow to import,
and a test holds the table against the classes of the version installed.
"""

import re
import time
from collections.abc import Mapping, Sequence

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
from shared.providers.reasons import is_distrust, plain_reason, redirect_host
from shared.retry import parse_retry_after

_TOO_LONG = re.compile(
    r"maximum (?:context|input) length|max(?:imum)?[_ ]tokens[_ ]per[_ ]request|max \d+ tokens per request|"
    r"request too large|too many tokens|must have less than \d+ tokens|too large to process",
    re.IGNORECASE,
)


def translate_openai_error(
    error: Exception,
    inputs: Sequence[str],
    *,
    server: str,
    model: str,
    key: str,
    kind: str = "embedding",
    setting: str = "EMBEDDING_MODEL",
) -> ProviderError:
    """The error of our tree for one of the SDK's, naming the setting to look at: `setting` names the model."""
    if isinstance(error, RecursionError):
        return ProviderUnavailable(f"{server} answered what nobody can read: check OPENAI_BASE_URL if it goes on")
    status = getattr(error, "status_code", None)
    names = {base.__name__ for base in type(error).__mro__}
    if "APIResponseValidationError" in names or (isinstance(error, ValueError) and status is None):
        return ProviderContractError(f"{server} did not answer in OpenAI's format: check OPENAI_BASE_URL")
    if "APITimeoutError" in names:
        return ProviderTimeout(f"{server} did not answer in time")
    if "APIConnectionError" in names:
        return _connection_error(error, server)
    if not isinstance(status, int):
        return ProviderRejected(f"the openai package refused to send the request ({type(error).__name__})")
    if 300 <= status < 400:
        place = redirect_host(_headers(error))
        return ProviderRejected(f"{server} points to {place} (HTTP {status}), not followed: check OPENAI_BASE_URL")
    message = str(getattr(error, "message", ""))
    code = {getattr(error, "code", None), getattr(error, "type", None)}
    reason = plain_reason(_body_message(error), inputs=inputs, secrets=[key])
    if status in (401, 403):
        return ProviderRejected(f"{server} refused the key (HTTP {status}): check OPENAI_API_KEY")
    if status == 404 or "model_not_found" in code or getattr(error, "param", None) == "model":
        return ProviderRejected(
            f"{server} has no {kind} model {model} (HTTP {status}): check {setting} and OPENAI_BASE_URL"
        )
    if status == 402 or code & {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}:
        return ProviderQuotaExceeded(f"the account at {server} has no quota left: check its plan and billing")
    if status in (400, 413, 422, 429) and _TOO_LONG.search(message):
        return _too_long(message)
    if status == 429:
        return ProviderRateLimited(f"{server} asks to slow down (HTTP 429)", retry_after=_retry_after(error))
    if status in (400, 413, 422):
        if getattr(error, "param", None) == "dimensions":
            return ProviderRejected(f"{model} cannot return that width: check EMBEDDING_DIMENSIONS ({reason})")
        return ProviderInputRejected(f"the provider refused the text (HTTP {status}): {reason}")
    if status == 408:
        return ProviderTimeout(f"{server} did not answer in time (HTTP 408)")
    if status == 500:
        return ProviderCrashed(f"{server} failed on the request (HTTP 500)", retry_after=_retry_after(error))
    # 409 is a lock of theirs that could not be had; the SDK's own loop retries it as well.
    if status >= 500 or status == 409:
        return ProviderUnavailable(f"{server} is failing (HTTP {status})", retry_after=_retry_after(error))
    return ProviderRejected(f"{server} refused the request (HTTP {status}): check OPENAI_BASE_URL")


def _connection_error(error: Exception, server: str) -> ProviderError:
    if is_distrust(error):
        return ProviderRejected(
            f"no trusted connection to {server}, its TLS certificate or protocol is not accepted: "
            "check OPENAI_BASE_URL and SSL_CERT_FILE"
        )
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in ("UnsupportedProtocol", "InvalidURL"):
            return ProviderRejected(f"{server} is not an address to connect to: check OPENAI_BASE_URL")
        if type(cause).__name__ == "DecodingError":
            return ProviderContractError(f"{server} did not answer in OpenAI's format: check OPENAI_BASE_URL")
        cause = cause.__cause__ or cause.__context__
    return ProviderUnavailable(f"cannot reach {server}: check the network and OPENAI_BASE_URL")


def _too_long(message: str) -> ProviderInputTooLong:
    limit = re.search(r"(?:length is|max) (\d+) tokens", message)
    counted = re.search(r"requested (?:about )?(\d+)", message, re.IGNORECASE)
    return ProviderInputTooLong(
        "the text is longer than the model reads",
        tokens=int(counted[1]) if counted else None,
        limit=int(limit[1]) if limit else None,
    )


def _body_message(error: Exception) -> object:
    body = getattr(error, "body", None)
    return body.get("message") if isinstance(body, dict) else None


def _retry_after(error: Exception) -> float | None:
    headers = _headers(error)
    precise = parse_retry_after(headers.get("retry-after-ms"), time.time())
    if precise is not None:
        return precise / 1000
    return parse_retry_after(headers.get("retry-after"), time.time())


def _headers(error: Exception) -> Mapping[str, str]:
    headers: Mapping[str, str] = getattr(getattr(error, "response", None), "headers", {})
    return headers
