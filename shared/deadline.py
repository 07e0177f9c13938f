"""The time limit of an interactive request."""

import time

from shared.errors import ProviderUnavailable

# Value of Retry-After when a deadline has passed.
RETRY_AFTER = 5.0


class Deadline:
    """The moment at which a request has to end: this many seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until the deadline; 0 when it has passed."""
        return max(self._until - time.monotonic(), 0.0)

    def error(self) -> ProviderUnavailable:
        """The error for a provider that did not answer in time."""
        return ProviderUnavailable(
            f"the provider did not answer within {self._seconds:.0f} s; "
            "try again; if this happens again, send fewer texts at once",
            retry_after=RETRY_AFTER,
        )
