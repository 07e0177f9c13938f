"""A PostgreSQL server for tests: databases are cloned from one that was migrated once."""

import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from shared.embedded.binaries import present_version
from shared.embedded.migrations import migrate
from shared.embedded.server import EmbeddedServer

# Without durability for speed, and without background workers that could change what a test measures.
_SETTINGS = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
_TEMPLATE = "migrated"


def remove(directory: Path) -> None:
    """Delete the directory of a server that was stopped, or was interrupted during its creation.

    After an interruption, processes of initdb may still write files for a moment.
    """
    deadline = time.monotonic() + 10
    while directory.exists() and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(0.05)


def make_directory(prefix: str) -> Path:
    """A folder for a server. It is in memory if there is space, because initdb and pg_upgrade wait for the disk.

    pytest's tmp_path is not used, because it is too long: the path of a unix socket may have 107 characters.
    """
    memory = Path("/dev/shm")
    # If TMPDIR is set, it is used.
    roomy = "TMPDIR" not in os.environ and memory.is_dir() and shutil.disk_usage(memory).free > 2 << 30
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=memory if roomy else None))
    # If root starts the server, the user of the server has to enter it.
    directory.chmod(0o711)
    return directory


class Cluster:
    """The embedded server in a temporary directory. A context manager: stopped on exit."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._migrated = False

    def __enter__(self) -> Self:
        try:
            self._admin_url = self._server.use().get_secret_value()
            with self.admin() as connection:
                for name, value in _SETTINGS.items():
                    setting = sql.SQL("alter system set {} = {}").format(sql.Identifier(name), sql.Literal(value))
                    connection.execute(setting)
                connection.execute("select pg_reload_conf()")
        except BaseException:
            # An interrupted __enter__ has no __exit__, so the server would keep running.
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.leave()

    @property
    def _server(self) -> EmbeddedServer:
        return EmbeddedServer(self._directory / "postgres", present_version())

    @contextmanager
    def admin(self) -> Iterator[psycopg.Connection[Any]]:
        """A superuser's connection to the server's own database."""
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            yield connection

    def url(self, database_url: SecretStr | str, *, user: str = "postgres") -> str:
        """The URL of one of this server's databases, by its name or by its URL, for a user."""
        text = database_url.get_secret_value() if isinstance(database_url, SecretStr) else database_url
        name = conninfo_to_dict(text)["dbname"] if "://" in text else text
        return f"postgresql://{user}@/{name}?host={conninfo_to_dict(self._admin_url)['host']}"

    @contextmanager
    def empty(self) -> Iterator[SecretStr]:
        """Create an empty database."""
        with self._database("template1") as url:
            yield url

    @contextmanager
    def clone(self) -> Iterator[SecretStr]:
        """Create a migrated database; the migrations run only for the first one."""
        if not self._migrated:
            with self.admin() as connection:
                # A database whose migration failed may exist.
                connection.execute(f"drop database if exists {_TEMPLATE} with (force)")
                connection.execute(f"create database {_TEMPLATE}")
            migrate(SecretStr(self.url(_TEMPLATE)))
            with self.admin() as connection:
                if not connection.execute("select from pg_roles where rolname = 'authenticator'").fetchone():
                    # PostgREST logs in as this role. Tonnetz makes no role that can log in.
                    connection.execute("create role authenticator login noinherit")
                    connection.execute("grant anon, authenticated, service_role to authenticator")
            self._migrated = True
        with self._database(_TEMPLATE) as url:
            yield url

    @contextmanager
    def copy(self, database_url: SecretStr) -> Iterator[SecretStr]:
        """A copy of this database, to which no session may be connected."""
        with self._database(str(conninfo_to_dict(database_url.get_secret_value())["dbname"])) as url:
            yield url

    @contextmanager
    def _database(self, template: str) -> Iterator[SecretStr]:
        name = f"test_{uuid.uuid4().hex[:16]}"
        with self.admin() as connection:
            # With this strategy the database is also dropped in a fifth of the time: nothing of it is in the buffers.
            connection.execute(f"create database {name} template {template} strategy file_copy")
        try:
            yield SecretStr(self.url(name))
        finally:
            with self.admin() as connection:
                connection.execute(f"drop database if exists {name} with (force)")

    def restart(self, mode: str = "immediate") -> None:
        """Stop the server like a crash (or `fast`) and start it again; also starts a stopped server."""
        if (self._server.directory / "postmaster.pid").exists():
            self.stop(mode)
        self._server.use()

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server like a crash (or `fast`), until it is restarted."""
        server = self._server
        options = ["-D", str(server.directory), "-m", mode, "-w", "stop"]
        ended = server.account.run([server.programs / "pg_ctl", *options], timeout=60)
        assert ended.returncode == 0, ended.stderr

    @property
    def log(self) -> Path:
        """The file to which the server writes its log today."""
        with self.admin() as connection:
            (name,) = connection.execute("select pg_current_logfile()").fetchone() or ("",)
        return self._server.directory / name

    @property
    def pid(self) -> int:
        """The id of the server's main process."""
        return int((self._server.directory / "postmaster.pid").read_text().split()[0])

    @property
    def system_user(self) -> str | None:
        """The system user of the server, if it is not the current user."""
        account = self._server.account
        return account.name if account.other else None


@contextmanager
def as_role(url: SecretStr, role: str, **claims: object) -> Iterator[psycopg.Connection[Any]]:
    """A connection that acts as a role, with the claims of its token, as PostgREST sets them."""
    with psycopg.connect(url.get_secret_value(), autocommit=True) as connection:
        connection.execute("select set_config('request.jwt.claims', %s, false)", [json.dumps({"role": role, **claims})])
        connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
        yield connection
