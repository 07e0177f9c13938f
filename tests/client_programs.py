"""Runs the programs of tests/clients, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing_tool

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = ROOT / "tests/clients"
INSTALLED = ROOT / ".tools/clients"


def require_javascript(request: pytest.FixtureRequest) -> None:
    """Fail or skip the test if the JavaScript clients are not installed, or not in their present versions."""
    # scripts/install_clients.sh copies the lock file at its end.
    lock = INSTALLED / "installed.json"
    if not lock.exists() or lock.read_bytes() != (CLIENTS / "package-lock.json").read_bytes():
        missing_tool(
            request, "needs the JavaScript clients: apt-get install -y npm, then run scripts/install_clients.sh"
        )


def run_client(program: str, *arguments: str, directory: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Run a program, by its file's name, in an empty directory; returns the JSON that it printed last."""
    interpreter = "node" if program.endswith(".mjs") else sys.executable
    done = subprocess.run(
        [interpreter, str(CLIENTS / program), *arguments],
        cwd=directory,
        # Keep the files of a client in the test's folder, and turn off its reports.
        env={
            **os.environ,
            "HOME": str(directory),
            "LANGSMITH_TRACING": "false",
            "NODE_MODULES": str(INSTALLED / "node_modules"),
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
