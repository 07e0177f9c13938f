"""Fixtures that run the commands in processes, with a small engine and few variables."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.postgres_cluster import make_directory, remove
from tests.unit.small_bert import write_model

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Result:
    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """Parse the line that --json prints."""
        (line,) = self.stdout.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found


class Command:
    """Runs scripts in a temporary folder, without `.env` of the checkout."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONWARNINGS": "ignore",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TONNETZ_ENV_FILE": os.devnull,
            **environment,
        }
        self._running: list[subprocess.Popen[str]] = []

    def start(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / script), *arguments],
            cwd=self.folder,
            env={name: value for name, value in (self.environment | environment).items() if value != "<unset>"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._running.append(process)
        return process

    def __call__(self, script: str, *arguments: str, **environment: str) -> Result:
        return self.finish(self.start(script, *arguments, **environment))

    def finish(self, process: subprocess.Popen[str], timeout: float = 240) -> Result:
        stdout, stderr = process.communicate(timeout=timeout)
        return Result(process.returncode, stdout, stderr)

    def close(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.communicate()


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with random weights, which is built fast; these tests do not test the engine."""
    return write_model(tmp_path_factory.mktemp("model") / "small-bert")


@pytest.fixture
def command_with(tmp_path: Path, small_model: Path) -> Iterator[Callable[..., Command]]:
    """Make a Command for an environment; processes that still run at the end are killed."""
    made: list[Command] = []
    # If root starts a server, the server's user cannot enter pytest's folders.
    data = make_directory("tonnetz-commands-")

    def make(**environment: str) -> Command:
        engine = {
            "EMBEDDING_PROVIDER": "onnx",
            "ONNX_MODEL": str(small_model),
            "TONNETZ_DATA_DIR": str(data / "data"),
        }
        made.append(Command(tmp_path, engine | environment))
        return made[-1]

    yield make
    for command in made:
        command.close()
    remove(data)


@pytest.fixture
def command(command_with: Callable[..., Command], database_url: SecretStr) -> Command:
    """Commands on the test's database, over DATABASE_URL."""
    return command_with(DATABASE_URL=database_url.get_secret_value())
