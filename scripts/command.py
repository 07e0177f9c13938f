"""Code that all commands share: the project's environment, one-line errors, exit codes, signals."""

import argparse
import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
EXIT_CONFIGURATION = 2
EXIT_INTERRUPTED = 130


def use_project_environment() -> None:
    """If this Python is too old or lacks the packages, run the script with the Python of .venv, or print what to do."""
    fits = sys.version_info >= (3, 11)
    if fits and find_spec("pydantic_settings") is not None:
        return
    environment = ROOT / ".venv"
    python = environment / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != environment.resolve():
        os.execv(python, [str(python), *sys.argv])
    version = sys.version.split()[0]
    old = f"Tonnetz needs Python 3.11 or newer; this is {version} (make demo PYTHON=python3.12 uses another)"
    print(f"error: {'the packages are not installed; run: make demo' if fits else old}", file=sys.stderr)
    sys.exit(EXIT_CONFIGURATION)


use_project_environment()
# `python scripts/backfill.py` puts only scripts/ on the path, and not the project's folder.
sys.path.insert(0, str(ROOT))

from shared.errors import AppError, DatabaseBusy  # noqa: E402 - only once the packages are there
from shared.logs import PlainFormatter, hide_secrets  # noqa: E402


def shown(path: Path) -> str:
    """A path as it is printed: relative to the checkout if it is inside the checkout."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def parser(description: str | None, *, json: str | None = None) -> argparse.ArgumentParser:
    """A parser with the module's docstring as its description; `json` is the help text of a flag --json."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if json is not None:
        made.add_argument("--json", action="store_true", help=json)
    return made


def run(main: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code. An AppError is printed to stderr, one line for each problem."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        code = main()
        sys.stdout.flush()
    except AppError as error:
        print("error: " + hide_secrets(error.message).replace("\n", "\nerror: "), file=sys.stderr)
        # If the server has no free connection, the settings are not wrong.
        code = 1 if isinstance(error, DatabaseBusy) else EXIT_CONFIGURATION
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # A program that read the output has ended (`| head`). This is not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def stop_on_signal() -> threading.Event:
    """An event that SIGINT or SIGTERM sets; a second one ends the process at once."""
    stop = threading.Event()

    def handle(_: int, __: object) -> None:
        if stop.is_set():
            # A normal exit would wait for threads that wait for the provider. So stop the embedded server here, and exit.
            atexit._run_exitfuncs()
            os._exit(EXIT_INTERRUPTED)
        stop.set()
        print(
            "\nstopping: finishing open requests and releasing leased rows (Ctrl-C again stops at once)",
            file=sys.stderr,
        )

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return stop
