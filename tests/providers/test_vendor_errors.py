"""Tests that every exception of the vendors' libraries is translated; a new exception fails this test."""

import ssl
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import openai
import pytest

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
from shared.providers.ollama.provider import OllamaProvider
from shared.providers.openai.errors import translate_openai_error

REQUEST = httpx2.Request("POST", "http://127.0.0.1/v1/embeddings")

# For each class name of the SDK's exceptions, the error class of shared/errors.py.
OPENAI = {
    "OpenAIError": ProviderRejected,
    "APIError": ProviderRejected,
    "APIConnectionError": ProviderUnavailable,
    "APITimeoutError": ProviderTimeout,
    "APIResponseValidationError": ProviderContractError,
    "APIStatusError": ProviderRejected,
    "BadRequestError": ProviderInputRejected,
    "AuthenticationError": ProviderRejected,
    "OAuthError": ProviderRejected,
    "PermissionDeniedError": ProviderRejected,
    "NotFoundError": ProviderRejected,
    "ConflictError": ProviderUnavailable,
    "UnprocessableEntityError": ProviderInputRejected,
    "RateLimitError": ProviderRateLimited,
    "InternalServerError": ProviderCrashed,
    # The embeddings route does not raise it; if it does, a retry does not help.
    "LengthFinishReasonError": ProviderRejected,
    "ContentFilterFinishReasonError": ProviderRejected,
    "SubjectTokenProviderError": ProviderRejected,
    "WebSocketConnectionClosedError": ProviderRejected,
    "WebSocketQueueFullError": ProviderRejected,
    "InvalidWebhookSignatureError": ProviderContractError,
}
STATUS = {"APIStatusError": 418, "InternalServerError": 500, "OAuthError": 401}


def descendants(base: type) -> Iterator[type]:
    yield base
    for child in base.__subclasses__():
        yield from descendants(child)


def openai_classes() -> list[type]:
    """The exceptions that a call may raise; the SDK's other parts (agents, azure) are not used."""
    defined = [value for value in vars(openai._exceptions).values() if isinstance(value, type)]
    return [cls for cls in defined if issubclass(cls, Exception)]


def build(cls: type) -> Exception:
    status = STATUS.get(cls.__name__, getattr(cls, "status_code", None))
    error: Exception = cls.__new__(cls)
    error.args = ("upstream words",)
    if issubclass(cls, openai.APIStatusError):
        response = httpx2.Response(int(status or 418), request=REQUEST)
        openai.APIStatusError.__init__(error, "upstream words", response=response, body=None)  # type: ignore[arg-type]
    return error


@pytest.mark.parametrize("cls", openai_classes(), ids=lambda cls: cls.__name__)
def test_every_openai_exception_is_translated(cls: type) -> None:
    assert cls.__name__ in OPENAI, "the SDK has a new exception: decide what it means"
    translated = translate_openai_error(build(cls), [], server="http://host", model="m", key="k")
    assert type(translated) is OPENAI[cls.__name__]
    assert "upstream words" not in str(translated)


def test_an_unknown_exception_of_the_sdk_becomes_a_provider_error() -> None:
    for cls in descendants(openai.OpenAIError):
        translated = translate_openai_error(build(cls), [], server="http://host", model="m", key="k")
        assert isinstance(translated, ProviderError)


def status_error(status: int, **body: Any) -> openai.APIStatusError:
    headers = body.pop("headers", {})
    response = httpx2.Response(status, request=REQUEST, headers=headers)
    return openai.APIStatusError(str(body.get("message", "")), response=response, body=body)


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (status_error(429, code="insufficient_quota"), ProviderQuotaExceeded, "billing"),
        (status_error(402), ProviderQuotaExceeded, "billing"),
        (status_error(500), ProviderCrashed, "500"),
        (status_error(502), ProviderUnavailable, "502"),
        (status_error(401), ProviderRejected, "OPENAI_API_KEY"),
        (status_error(404), ProviderRejected, "EMBEDDING_MODEL"),
        (status_error(400, code="model_not_found"), ProviderRejected, "EMBEDDING_MODEL"),
        (status_error(400, param="dimensions", message="too many"), ProviderRejected, "EMBEDDING_DIMENSIONS"),
        (status_error(400, message="Invalid 'input': maximum context length is 8192 tokens."),
         ProviderInputTooLong, ""),
        (status_error(413, message="Input validation error: `inputs` must have less than 512 tokens."),
         ProviderInputTooLong, ""),
        (status_error(429, message="Request too large on tokens per min (TPM): Limit 40000, Requested 60000"),
         ProviderInputTooLong, ""),
        (ValueError("No embedding data received"), ProviderContractError, "OPENAI_BASE_URL"),
    ],
)  # fmt: skip
def test_openais_refusals_are_distinguished(error: Exception, expected: type[ProviderError], words: str) -> None:
    translated = translate_openai_error(error, [], server="http://host", model="m", key="k")
    assert type(translated) is expected
    assert words in str(translated)


def test_openais_count_of_a_long_text_is_read() -> None:
    message = (
        "This model's maximum context length is 8192 tokens, however you requested 8610 tokens (8610 in your prompt)"
    )
    translated = translate_openai_error(status_error(400, message=message), [], server="s", model="m", key="k")
    assert isinstance(translated, ProviderInputTooLong)
    assert (translated.tokens, translated.limit) == (8610, 8192)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry-after": "3"}, 3.0), ({"retry-after-ms": "250", "retry-after": "1"}, 0.25), ({}, None)],
)
def test_openais_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    translated = translate_openai_error(status_error(429, headers=headers), [], server="s", model="m", key="k")
    assert isinstance(translated, ProviderRateLimited)
    assert translated.retry_after == seconds


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"), ProviderRejected),
        (ssl.SSLError(1, "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred"), ProviderUnavailable),
        (OSError("Connection refused"), ProviderUnavailable),
    ],
)
def test_a_bad_certificate_is_final_and_a_broken_connection_is_not(
    cause: Exception, expected: type[ProviderError]
) -> None:
    error = openai.APIConnectionError(request=REQUEST)
    error.__cause__ = cause
    assert type(translate_openai_error(error, [], server="s", model="m", key="k")) is expected


HTTPX = [cls for cls in descendants(httpx.HTTPError) if cls is not httpx.HTTPStatusError]


@pytest.mark.parametrize(
    "cls",
    [*HTTPX, httpx.InvalidURL, httpx.CookieConflict, *descendants(httpx.StreamError)],
    ids=lambda cls: cls.__name__,
)
def test_every_httpx_exception_is_translated(cls: type, monkeypatch: pytest.MonkeyPatch) -> None:
    error = cls.__new__(cls)
    error.args = ("upstream words",)
    provider = OllamaProvider()

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(httpx.Client, "post", fail)
    try:
        with pytest.raises(ProviderError) as raised:
            provider._request(["a"])
        assert "upstream words" not in str(raised.value)
        assert "OLLAMA_URL" in str(raised.value) or isinstance(raised.value, ProviderTimeout)
    finally:
        provider.close()


@pytest.mark.parametrize("module", ["openai", "ollama"])
def test_importing_a_provider_does_not_import_its_library(module: str) -> None:
    code = (
        f"import sys, shared.providers.{module}; print([m for m in ('openai', 'httpx', 'httpx2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
