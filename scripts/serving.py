"""Starts a server for a script and stops it when the block ends."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from shared.errors import ConfigurationError

START_SECONDS = 120.0
# Seconds to wait until the server has stopped. It first finishes loading its model, which takes long on a busy machine.
STOP_SECONDS = 90.0
# The value 0 turns off the periodic backfills, so that the server ends as soon as it gets the signal.
FUNCTIONS = (sys.executable, "-m", "functions.local", "--drain-minutes", "0")


@contextmanager
def serving(
    arguments: Sequence[object], ready: str, *, folder: Path, environment: Mapping[str, str], log: Path
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a server with `--port` until the block ends; yields its URL and process.

    The server has started when it answers 200 at the path `ready`.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(part) for part in (*arguments, "--port", port)]
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(url + ready):
            if server.poll() is not None or time.monotonic() > deadline:
                raise ConfigurationError(f"{command[0]} did not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.2)
        yield url, server
    finally:
        server.terminate()
        server.wait(STOP_SECONDS)


def answers(url: str) -> bool:
    """Whether the server answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    """A port that no program on this machine uses."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
