"""A real PgBouncer in front of a test's server."""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from tests.certificates import write_certificate
from tests.postgres_cluster import make_directory, remove
from tests.postgrest_server import free_ports

# Debian installs it into a folder that is not on every user's PATH.
BINARY = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
INSTALL = "apt-get install -y pgbouncer"

MODES = ("transaction", "session")


class PgBouncer:
    """Runs the pooler on a free port of 127.0.0.1, in front of all databases of a server. A context manager.

    `server` is the address of one of the databases, on a unix socket.

    `users` maps the users that may connect to their passwords. If it is empty, every user may connect without a password
    and acts as postgres. With `tls`, connections need TLS; the certificate is for 127.0.0.1 and self-signed.
    """

    def __init__(
        self,
        server: SecretStr | str,
        mode: str,
        *,
        users: Mapping[str, str] | None = None,
        tls: bool = False,
        **settings: str,
    ) -> None:
        (self.port,) = free_ports(1)
        address = server.get_secret_value() if isinstance(server, SecretStr) else server
        self._host = Path(str(conninfo_to_dict(address)["host"]))
        # PgBouncer refuses to run as root, so it runs as the user of the PostgreSQL server.
        self._user = (self._host / ".s.PGSQL.5432").owner() if os.geteuid() == 0 else None
        self._users = users
        self._tls = tls
        self._settings = {"pool_mode": mode, "auth_type": "scram-sha-256" if users else "any", **settings}

    def __enter__(self) -> Self:
        self._directory = make_directory("tonnetz-pgbouncer-")
        try:
            self._write_settings()
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _write_settings(self) -> None:
        passwords = "".join(f'"{name}" "{password}"\n' for name, password in (self._users or {}).items())
        (self._directory / "users").write_text(passwords)
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_file": str(self._directory / "users"),
            "logfile": str(self._directory / "log"),
            **self._settings,
        }
        if self._tls:
            certificate, key = write_certificate(self._directory, "127.0.0.1")
            settings |= {"client_tls_cert_file": str(certificate), "client_tls_key_file": str(key)}
            settings["client_tls_sslmode"] = "require"
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (self._directory / "ini").write_text(
            f"[databases]\n* = host={self._host} user=postgres\n\n[pgbouncer]\n{lines}"
        )
        if self._user:
            for path in (self._directory, *self._directory.iterdir()):
                shutil.chown(path, user=self._user)

    def start(self) -> None:
        """Start PgBouncer, for the first time or after a stop, and wait until it answers."""
        assert BINARY is not None
        self._process = subprocess.Popen(
            [BINARY, "-q", str(self._directory / "ini")],
            user=self._user,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PgBouncer did not become ready:\n{(self._directory / 'log').read_text()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            psycopg.connect(f"postgresql://probe@127.0.0.1:{self.port}/postgres", connect_timeout=2).close()
        except psycopg.OperationalError as error:
            return "refused" not in str(error)
        return True

    def stop(self) -> None:
        """Stop PgBouncer at once, with all connections."""
        self._process.kill()
        self._process.wait()

    def url(self, database_url: SecretStr, *, user: str = "postgres") -> SecretStr:
        """The pooled address of one of the cluster's databases."""
        name = conninfo_to_dict(database_url.get_secret_value())["dbname"]
        return SecretStr(f"postgresql://{user}@127.0.0.1:{self.port}/{name}")

    @property
    def certificate(self) -> Path:
        """Its certificate, which is also that of its CA."""
        return self._directory / "certificate.pem"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if hasattr(self, "_process"):
            self.stop()
        remove(self._directory)
