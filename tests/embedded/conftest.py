"""A folder for embedded servers, and programs that run as other users of the system."""

import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from shared.embedded.account import Account
from shared.embedded.binaries import client_binaries
from shared.embedded.server import read_version, stop_embedded
from tests.postgres_cluster import make_directory, remove

ROOT = Path(__file__).resolve().parents[2]
# A user who owns nothing here.
ATTACKER = 61_002
# A program that becomes another user. It imports first, because that user may be unable to read this Python's folder.
BECOME = """
import encodings.idna, os, pwd, sys, tempfile
import psycopg
import shared.embedded.server
tempfile.gettempdir()
user, group = int(sys.argv.pop(1)), int(sys.argv.pop(1))
if user:
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
os.umask(0o022)
"""
# A program that starts the server of a folder, prints its URL, and ends when its input ends.
USE = """
from pathlib import Path
from shared.embedded.server import start_embedded
try:
    print(start_embedded(Path(sys.argv[1])).get_secret_value(), flush=True)
except shared.errors.AppError as error:
    sys.exit(error.message)
sys.stdin.read()
"""

RunAs = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder() -> Iterator[Path]:
    directory = make_directory("tonnetz-embedded-")
    yield directory
    for version in directory.glob("**/PG_VERSION"):
        if version.parent.name == "postgres" and read_version(version.parent):
            stop_embedded(version.parent.parent)
    remove(directory)


@pytest.fixture
def run_as(folder: Path) -> RunAs:
    """Run a Python program as another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as other users")
    attacker = Account("attacker", ATTACKER, ATTACKER, other=True)
    if attacker.first_closed([*reversed(client_binaries().parents)]):
        pytest.skip("other users cannot enter the folder of the packages")

    def run(user: int, program: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command(user, program, *arguments),
            cwd="/",
            env=environment(folder),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            input="",
        )

    return run


def command(user: int, program: str, *arguments: object) -> list[str]:
    """The command that runs a program as a user; 0 is the current one."""
    try:
        group = pwd.getpwuid(user).pw_gid
    except KeyError:
        group = user
    return [sys.executable, "-c", BECOME + program, str(user), str(group), *map(str, arguments)]


def environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TONNETZ_ENV_FILE": os.devnull,
    }


class Program:
    """A program of a user that uses the embedded server of a folder until it is ended. A context manager."""

    def __init__(self, data: Path, user: int = 0) -> None:
        self._user = user
        self._data = data

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            command(self._user, USE, self._data),
            cwd="/",
            env=environment(self._data),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("postgresql://")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate("", timeout=60)


def server_pid(data: Path) -> int:
    return int((data / "postgres" / "postmaster.pid").read_text().split()[0])


def is_running(data: Path) -> bool:
    return (data / "postgres" / "postmaster.pid").exists()


def long_path(folder: Path) -> Path:
    """A data folder whose path is too long for a socket."""
    return folder / ("long-" * 20)


def modes(folder: Path) -> dict[Path, int]:
    """The modes of a folder and of all folders above it."""
    return {path: path.stat().st_mode for path in (folder, *folder.parents)}
