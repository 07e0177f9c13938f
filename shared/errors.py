"""Every error this project raises on purpose.

    AppError
    ├── InvalidRequest               422
    │   └── RequestTooLarge          413
    ├── Unauthorized                 401
    ├── Forbidden                    403
    ├── NotFound                     404
    ├── Conflict                     409   it is there already, or was changed meanwhile
    ├── ConfigurationError           500   settings; the command line exits with 2
    ├── Interrupted                  503   asked to stop while waiting; nothing is wrong
    ├── Overloaded                   503   retryable, knows retry_after: more is waiting than can be worked on soon
    ├── ProviderError                502
    │   ├── ProviderTimeout          504   retryable
    │   ├── ProviderUnavailable      503   retryable, may know retry_after
    │   │   └── ProviderCrashed      503   retryable; if it lasts, one text may be the cause
    │   ├── ProviderRateLimited      503   retryable, knows retry_after
    │   ├── ProviderQuotaExceeded    503   final: money, not time, is missing
    │   ├── ProviderRejected         502   final: every text would be refused (key, model, address)
    │   │   └── ProviderInputRejected   422   final: this text was refused, others may pass
    │   │       └── ProviderInputTooLong   422   the text, or the request, is over a limit
    │   └── ProviderContractError    502   the answer broke the protocol (count, order, NaN)
    │       └── ProviderWidthError   502   final for every text: vectors of another width
    └── DatabaseError                500
        ├── DatabaseUnavailable      503   retryable
        ├── DatabaseTimeout          504   retryable
        ├── DatabaseConflict         409   retryable (deadlock, serialization)
        ├── DatabaseRejected         422   a value the SQL function refused
        └── DatabaseContractError    500   migration, grant or extension missing

Adapters translate vendor exceptions into this tree at the boundary (`raise ... from error`);
above them nobody sees a vendor's type. A message names the variable, function or field and the
fix, and never carries a key, a row's text or an upstream body.
"""

from typing import ClassVar


class AppError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        super().__init__(self.message)


class InvalidRequest(AppError):
    """The request is not valid."""

    code = "invalid_request"
    status = 422


class RequestTooLarge(InvalidRequest):
    """The request body is larger than is accepted."""

    code = "request_too_large"
    status = 413


class Unauthorized(AppError):
    """The request carries no valid key."""

    code = "unauthorized"
    status = 401


class Forbidden(AppError):
    """The caller may not do this."""

    code = "forbidden"
    status = 403


class NotFound(AppError):
    """There is no such thing."""

    code = "not_found"
    status = 404


class Conflict(AppError):
    """It is there already, or was changed meanwhile."""

    code = "conflict"
    status = 409


class ConfigurationError(AppError):
    """The settings are incomplete or contradict each other."""

    code = "configuration"


class Interrupted(AppError):
    """Stopped on request before the work was done."""

    code = "interrupted"
    status = 503


class Overloaded(AppError):
    """More requests are waiting than can be answered soon.

    `retry_after` is the number of seconds after which another try makes sense.
    """

    code = "overloaded"
    status = 503
    retryable = True

    def __init__(self, message: str | None = None, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ProviderError(AppError):
    """The provider failed."""

    code = "provider_error"
    status = 502


class ProviderTimeout(ProviderError):
    """The provider did not answer in time."""

    code = "provider_timeout"
    status = 504
    retryable = True


class ProviderUnavailable(ProviderError):
    """The provider cannot be reached or is failing.

    `retry_after` is the number of seconds it asked for, None where it did not say.
    """

    code = "provider_unavailable"
    status = 503
    retryable = True

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ProviderCrashed(ProviderUnavailable):
    """The provider failed on this request (HTTP 500)."""

    code = "provider_crashed"


class ProviderRateLimited(ProviderError):
    """The provider asks to slow down.

    `retry_after` is the number of seconds it asked for, None where it did not say.
    """

    code = "provider_rate_limited"
    status = 503
    retryable = True

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ProviderQuotaExceeded(ProviderError):
    """The provider account has no quota left."""

    code = "provider_quota_exceeded"
    status = 503


class ProviderRejected(ProviderError):
    """The provider refused the request, and would refuse it with any text."""

    code = "provider_rejected"


class ProviderInputRejected(ProviderRejected):
    """The provider refused this text."""

    code = "provider_input_rejected"
    status = 422


class ProviderInputTooLong(ProviderInputRejected):
    """The text is longer than the provider accepts.

    `tokens` is the length the provider counted and `limit` what it accepts, None where it did not say.
    """

    code = "provider_input_too_long"

    def __init__(self, message: str | None = None, *, tokens: int | None = None, limit: int | None = None) -> None:
        super().__init__(message)
        self.tokens = tokens
        self.limit = limit


class ProviderContractError(ProviderError):
    """The provider's answer is not what its protocol promises."""

    code = "provider_contract"


class ProviderWidthError(ProviderContractError):
    """The provider's vectors have another width than the model is registered with."""

    code = "provider_width"


class DatabaseError(AppError):
    """The database failed."""

    code = "database_error"


class DatabaseUnavailable(DatabaseError):
    """The database cannot be reached."""

    code = "database_unavailable"
    status = 503
    retryable = True


class DatabaseTimeout(DatabaseError):
    """The database did not answer in time."""

    code = "database_timeout"
    status = 504
    retryable = True


class DatabaseConflict(DatabaseError):
    """The database rolled back because of a concurrent change."""

    code = "database_conflict"
    status = 409
    retryable = True


class DatabaseRejected(DatabaseError):
    """The database refused a value."""

    code = "database_rejected"
    status = 422


class DatabaseContractError(DatabaseError):
    """The database lacks a function, grant or extension this version needs."""

    code = "database_contract"
