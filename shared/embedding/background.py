"""Work that nobody has to wait for, not even the end of the process."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def in_background(function: Callable[[], Result], name: str) -> Future[Result]:
    """Run the function in a thread of its own; a process that ends leaves it behind, which an executor would not."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 -- whoever takes the result meets it
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
