"""Runs functions in background threads during a drill."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self


class Background:
    """Runs a function repeatedly in a thread until the block ends; `errors` contains its exceptions."""

    def __init__(self, work: Callable[[], None], *, pause: float = 0.0) -> None:
        self.errors: list[str] = []
        self.rounds = 0
        self._work, self._pause, self._stop = work, pause, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._work()
            except Exception as error:  # noqa: BLE001 - reported by the drill
                self.errors.append(f"{type(error).__name__}: {str(error).strip()[:200]}")
                self._stop.wait(0.2)
            self.rounds += 1
            self._stop.wait(self._pause)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)


@contextmanager
def each(managers: Iterable[Any]) -> Iterator[list[Any]]:
    """Enters several context managers as one."""
    with ExitStack() as stack:
        yield [stack.enter_context(manager) for manager in managers]
