"""The interface of the database adapters: SQL functions are called by name."""

import re
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from shared.models import Caller

JsonRow = dict[str, Any]

_FUNCTION_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class Database(AbstractContextManager["Database"]):
    """Calls SQL functions of schema public as service_role.

    Every adapter passes values as JSON, so a uuid is a string and a timestamp is ISO 8601. Vendor
    exceptions are translated into `DatabaseError`, `NotFound` or `ConfigurationError`.
    """

    def call(self, function: str, arguments: Mapping[str, Any] | None = None) -> list[Any]:
        """Call a function and return its rows: objects for a table, bare values for a scalar, [] for void."""
        if not _FUNCTION_NAME.fullmatch(function):
            raise ValueError(f"not the name of an SQL function: {function!r}")
        return self._call(function, dict(arguments or {}))

    def call_scalar(self, function: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Call a function that returns one value (or one object)."""
        rows = self.call(function, arguments)
        return rows[0] if rows else None

    @abstractmethod
    def _call(self, function: str, arguments: dict[str, Any]) -> list[Any]: ...

    def run_alone(self, listed_by: str, argument: str) -> bool:
        """Run statements that cannot be part of a transaction, as the owner; False if this connection cannot run them.

        The query `listed_by` returns the statements. It runs under a lock, so that two programs do not build the same
        index.
        """
        return False

    def as_caller(self, caller: Caller) -> "Database":
        """Return a read-only adapter that calls functions with the role and claims of `caller`.

        The returned adapter shares this adapter's connections and need not be closed. A call raises Unauthorized if the
        database refuses the caller's token.
        """
        raise NotImplementedError

    def for_work(self) -> "Database":
        """Return an adapter for backfills in a server: its calls may take longer than a request can wait.

        It shares this adapter's connections and need not be closed.
        """
        return self

    @abstractmethod
    def close(self) -> None:
        """Close all connections; the object cannot be used afterwards."""

    def __exit__(self, *_: object) -> None:
        self.close()
