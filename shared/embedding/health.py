"""Checks whether the database answers. Only one check runs at a time, and it has a time limit."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field

from shared.database.base import Database
from shared.embedding.background import in_background
from shared.errors import AppError

log = logging.getLogger(__name__)

PROBE_SECONDS = 3.0


@dataclass(slots=True)
class HealthService:
    """Checks the database. Concurrent callers share one check, so a database that hangs does not block all threads."""

    database: Callable[[], Database]
    _probe: Future[bool] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def database_is_up(self) -> bool:
        """Whether the database answers within PROBE_SECONDS and has the migrations of this version."""
        with self._lock:
            if self._probe is None or self._probe.done():
                self._probe = in_background(self._ping, "health")
            probe = self._probe
        try:
            return probe.result(PROBE_SECONDS)
        except FutureTimeout:
            return False

    def _ping(self) -> bool:
        try:
            return bool(self.database().call_scalar("ping_embeddings"))
        except AppError as error:
            log.warning("health: %s", error.message)
            return False
