"""A value that is made when it is first needed, once, whichever thread comes first."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Once(Generic[Value]):
    """Calls the first `get`'s `make`; should that raise, the next `get` tries again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: list[Value] = []

    def get(self, make: Callable[[], Value]) -> Value:
        """The value, made if need be."""
        with self._lock:
            if not self._made:
                self._made.append(make())
            return self._made[0]

    def forget(self) -> Value | None:
        """The value if it was made, which the next `get` makes anew."""
        with self._lock:
            return self._made.pop() if self._made else None
