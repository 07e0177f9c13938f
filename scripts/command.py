"""What all commands share: one clear line for an error, no traceback, exit 2."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

# `python scripts/backfill.py` puts scripts/ on the path, not the project.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shared.errors import AppError

EXIT_CONFIGURATION = 2
EXIT_INTERRUPTED = 130


def run(main: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code; an error of ours is one line on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        code = main()
        sys.stdout.flush()
    except AppError as error:
        print(*(f"error: {line}" for line in error.message.splitlines()), sep="\n", file=sys.stderr)
        code = EXIT_CONFIGURATION
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`| head`): nothing is wrong, and nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def stop_on_signal() -> threading.Event:
    """An event that SIGINT or SIGTERM sets; a second one ends the process at once."""
    stop = threading.Event()

    def handle(_: int, __: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print("\nstopping: requests under way are finished, leases given back (again: stop now)", file=sys.stderr)

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return stop
