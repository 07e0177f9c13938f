"""A PostgreSQL on 127.0.0.1 that asks for passwords, as hosted servers do; its build has no TLS."""

import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from shared.embedded.binaries import binaries
from tests.postgres_cluster import make_directory, remove
from tests.postgrest_server import free_ports

# `hostssl` admits only connections with TLS. This server has no TLS, so the user of that line is never admitted.
_ADMITTED = """
local all postgres trust
hostssl all demands_tls 127.0.0.1/32 scram-sha-256
host all app,limited,nologin 127.0.0.1/32 scram-sha-256
host all trusted,missing 127.0.0.1/32 trust
"""


class PasswordServer:
    """A server with the user `app`, the password `secret-word` and at most `max_connections`. A context manager."""

    def __init__(self, system_user: str | None, *, max_connections: int = 20) -> None:
        (self.port,) = free_ports(1)
        self._system_user = system_user
        self._max_connections = max_connections
        self._binaries = binaries()[max(binaries())]

    def __enter__(self) -> Self:
        self._directory = make_directory("tonnetz-password-")
        try:
            if self._system_user:
                shutil.chown(self._directory, user=self._system_user)
            self._run("initdb", "-U", "postgres", "--no-sync", "--no-instructions", "--auth=trust")
            (self.data / "pg_hba.conf").write_text(_ADMITTED)
            options = f"-F -h 127.0.0.1 -p {self.port} -k {self._directory} -c max_connections={self._max_connections}"
            self._run("pg_ctl", "-w", "-l", str(self._directory / "log"), "-o", options, "start")
            with self.admin() as admin:
                admin.execute(
                    "create role app login password 'secret-word'; create role trusted login;"
                    "create role limited login password 'secret-word' connection limit 0;"
                    "create role nologin password 'secret-word'; create role demands_tls login"
                )
                admin.execute("create database closed")
                admin.execute("revoke connect on database closed from public")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    @property
    def data(self) -> Path:
        """The data directory."""
        return self._directory / "data"

    def admin(self) -> psycopg.Connection[Any]:
        """Open a connection of a superuser; the caller closes it."""
        return psycopg.connect(
            f"postgresql://postgres@/postgres?host={self._directory}&port={self.port}", autocommit=True
        )

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._binaries / program, "-D", self.data, *arguments],
            user=self._system_user,
            cwd="/",
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (self.data / "postmaster.pid").exists():
            self._run("pg_ctl", "-m", "immediate", "-w", "stop")
        remove(self._directory)
