"""What the rest of the project knows about the database: SQL functions, called by name."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from shared.models import Caller

JsonRow = dict[str, Any]

_FUNCTION_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class Database(ABC):
    """A way to the SQL functions of schema public, as service_role.

    Values travel as JSON through every adapter, so a uuid is a string and a timestamp is ISO 8601
    whichever way it came. Vendor exceptions arrive as `DatabaseError`, `NotFound` or `ConfigurationError`.
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

    def as_caller(self, caller: Caller) -> "Database":
        """The same database, read only, as a caller with a role and claims of their own instead of as service_role.

        Connections are shared, so this costs nothing and there is nothing to close. Raises Unauthorized
        at the first call where the database refuses the caller's token.
        """
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """Give back connections; the object is of no use afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
