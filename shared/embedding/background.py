"""Runs a function in a daemon thread, so that the process can end while the function runs."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def in_background(function: Callable[[], Result], name: str) -> Future[Result]:
    """Run the function in a new daemon thread. A process does not end while the threads of an executor run."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - future.result() raises it in the thread that waits
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
