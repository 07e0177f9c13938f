"""Every error that the program raises on purpose.

    AppError
    ├── InvalidRequest               422
    │   └── RequestTooLarge          413
    ├── Unauthorized                 401
    ├── Forbidden                    403
    ├── NotFound                     404
    ├── Conflict                     409   it exists already, or was changed in the meantime
    ├── ConfigurationError           500   settings; the command line exits with 2
    │   └── UnknownProvider          500   another program makes the vectors of the model
    ├── Interrupted                  503   the work was stopped on request
    ├── Overloaded                   503   retryable, has retry_after: too many requests are waiting
    ├── ProviderError                502
    │   ├── ProviderTimeout          504   retryable
    │   ├── ProviderUnavailable      503   retryable, may have retry_after
    │   │   └── ProviderCrashed      503   retryable; if it recurs, one text may be the cause
    │   ├── ProviderRateLimited      503   retryable, has retry_after
    │   ├── ProviderQuotaExceeded    503   final: the account has no quota left
    │   │   └── BudgetSpent          429   EMBEDDING_BUDGET_PER_DAY is used up; has retry_after: midnight UTC
    │   ├── ProviderRejected         502   final for every text (key, model, address)
    │   │   └── ProviderInputRejected   422   final for this text; others may be accepted
    │   │       ├── ProviderInputTooLong   422   the text or the request is over a limit
    │   │       └── ProviderFormatRefused  422   the encoding of the answer, as far as the message tells
    │   └── ProviderContractError    502   the answer violates the protocol (count, order, NaN)
    │       └── ProviderWidthError   502   final for every text: vectors have another width
    └── DatabaseError                500
        ├── DatabaseUnavailable      503   retryable
        │   └── DatabaseBusy             503   retryable: no free connection
        ├── DatabaseTimeout          504   retryable
        ├── DatabaseConflict         409   retryable (deadlock, serialization)
        ├── DatabaseRejected         422   the SQL function rejected a value
        └── DatabaseContractError    500   a migration, grant or extension is missing

Adapters translate vendor exceptions into these errors (`raise ... from error`), so that
no other code depends on a vendor's types. A message names the variable, function or field and the
fix, and never contains a key, a row's text or an upstream body.
"""

import re
from typing import ClassVar

HIDDEN = "[hidden]"
_USERINFO = re.compile(r"(?<=://)[^\s/?#]+@")


def hide_userinfo(text: str) -> str:
    """The text without the user and password of the URLs in it."""
    return _USERINFO.sub(f"{HIDDEN}@", text) if "://" in text else text


class AppError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    # Seconds to wait before another try; None if the server that failed did not say.
    retry_after: float | None = None

    def __init_subclass__(
        cls, *, code: str | None = None, status: int | None = None, retryable: bool | None = None
    ) -> None:
        given = {"code": code, "status": status, "retryable": retryable}
        for name, value in given.items():
            if value is not None:
                setattr(cls, name, value)

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        self.message = hide_userinfo(message or (type(self).__doc__ or "").strip().splitlines()[0])
        super().__init__(self.message)
        if retry_after is not None:
            self.retry_after = retry_after


class InvalidRequest(AppError, code="invalid_request", status=422):
    """The request is not valid."""


class RequestTooLarge(InvalidRequest, code="request_too_large", status=413):
    """The request body is larger than is accepted."""


class Unauthorized(AppError, code="unauthorized", status=401):
    """The request has no valid key."""


class Forbidden(AppError, code="forbidden", status=403):
    """The caller may not do this."""


class NotFound(AppError, code="not_found", status=404):
    """The requested object does not exist."""


class Conflict(AppError, code="conflict", status=409):
    """It exists already, or was changed in the meantime."""


class ConfigurationError(AppError, code="configuration"):
    """The settings are incomplete or contradict each other."""


class UnknownProvider(ConfigurationError, code="unknown_provider"):
    """No provider of this program makes the vectors of the model; another program does."""


class Interrupted(AppError, code="interrupted", status=503):
    """The work was stopped on request before it was done."""


class Overloaded(AppError, code="overloaded", status=503, retryable=True):
    """More requests are waiting than can be answered soon."""

    retry_after = 1.0


class ProviderError(AppError, code="provider_error", status=502):
    """The provider failed.

    `billed` is the number of tokens that the failed requests cost, None if it has to be estimated; `calls` is the number
    of these requests.
    """

    billed: int | None = 0
    calls: int = 1


class ProviderTimeout(ProviderError, code="provider_timeout", status=504, retryable=True):
    """The provider did not answer in time."""

    # The provider may have done the work, so its cost has to be estimated.
    billed: int | None = None


class ProviderUnavailable(ProviderError, code="provider_unavailable", status=503, retryable=True):
    """The provider cannot be reached or is failing."""


class ProviderCrashed(ProviderUnavailable, code="provider_crashed"):
    """The provider failed on this request (HTTP 500)."""


class ProviderRateLimited(ProviderError, code="provider_rate_limited", status=503, retryable=True):
    """The provider asks to slow down."""


class ProviderQuotaExceeded(ProviderError, code="provider_quota_exceeded", status=503):
    """The provider account has no quota left."""


class BudgetSpent(ProviderQuotaExceeded, code="budget_spent", status=429):
    """The budget of the day is spent, so nothing was sent to the provider."""


class ProviderRejected(ProviderError, code="provider_rejected"):
    """The provider refused the request, and would refuse it with any text."""


class ProviderInputRejected(ProviderRejected, code="provider_input_rejected", status=422):
    """The provider refused this text."""


class ProviderInputTooLong(ProviderInputRejected, code="provider_input_too_long"):
    """The text is longer than the provider accepts.

    `tokens` is the length that the provider counted, and `limit` the length that it accepts; None if it did not say.
    """

    def __init__(self, message: str | None = None, *, tokens: int | None = None, limit: int | None = None) -> None:
        super().__init__(message)
        self.tokens = tokens
        self.limit = limit


class ProviderFormatRefused(ProviderInputRejected, code="provider_format_refused"):
    """The provider refused the encoding of vectors that was asked for, or a text with a message about an encoding."""


class ProviderContractError(ProviderError, code="provider_contract"):
    """The provider's answer violates its protocol."""


class ProviderWidthError(ProviderContractError, code="provider_width"):
    """The provider's vectors do not have the width with which the model is registered."""


class DatabaseError(AppError, code="database_error"):
    """The database failed."""


class DatabaseUnavailable(DatabaseError, code="database_unavailable", status=503, retryable=True):
    """The database cannot be reached."""


class DatabaseBusy(DatabaseUnavailable, code="database_busy"):
    """The database has no free connection."""


class DatabaseTimeout(DatabaseError, code="database_timeout", status=504, retryable=True):
    """The database did not answer in time."""


class DatabaseConflict(DatabaseError, code="database_conflict", status=409, retryable=True):
    """The database rolled back because of a concurrent change."""


class DatabaseRejected(DatabaseError, code="database_rejected", status=422):
    """The database rejected a value."""


class DatabaseContractError(DatabaseError, code="database_contract"):
    """The database lacks a function, grant or extension this version needs."""
