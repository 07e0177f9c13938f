"""Starts the embedded database: a PostgreSQL with pgvector from a PyPI package."""

import atexit
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import SecretStr

from shared.embedded import postmaster
from shared.embedded.account import choose_account, require_entry
from shared.embedded.binaries import binaries, present_version
from shared.embedded.locks import Presence, exclusive
from shared.embedded.sockets import require_private
from shared.errors import AppError, ConfigurationError, DatabaseUnavailable

# Recovery after a crash may take long. A program waits this long for the start of another program, and for its own.
_START_SECONDS = 90.0
_LOCK_SECONDS = 120.0
_CREATE_SECONDS = 120.0

# Written to postgresql.conf when the data directory is created; users may edit the file afterwards.
_CONFIGURATION = {
    # Search statements are short: to compile their plans would take longer than to run them.
    "jit": "off",
    # Vector indexes are built in memory.
    "maintenance_work_mem": "256MB",
    "max_wal_size": "2GB",
    "random_page_cost": "1.1",
    "log_min_messages": "warning",
    # Do not log statements that fail: they may contain a row's text, and callers could fill the disk with them.
    "log_min_error_statement": "panic",
}

_present: dict[Path, Presence] = {}


class EmbeddedServer:
    """The server of one data directory, with the PostgreSQL version that made it."""

    def __init__(self, directory: Path, version: int) -> None:
        self.directory = directory
        self.programs = binaries()[version]
        self.account = choose_account(directory)
        self._lock = directory.with_name(f"{directory.name}.lock")

    def use(self) -> SecretStr:
        """Create the database if it is missing, start the server if it does not run, and return its URL.

        The server runs until this process ends or calls `leave`, and longer if other processes use it.
        """
        _make_folders(self.directory.parent)
        require_entry(self.account, self.directory, self.programs)
        with exclusive(self._lock, self.account, seconds=_LOCK_SECONDS):
            if read_version(self.directory) is None:
                self._create()
            elif self.directory.stat().st_uid != self.account.uid:
                raise ConfigurationError(
                    f"{self.directory} belongs to root, and PostgreSQL does not run as root; "
                    f"give all of it to another user (chown -R {self.account.name})"
                )
            running = postmaster.find(self.directory)
            if running is None:
                server = postmaster.start(self.directory, self.programs, self.account, seconds=_START_SECONDS)
            else:
                require_private(Path(running.socket_folder), self.account)
                server = postmaster.wait_until_ready(self.directory, running.pid, seconds=_START_SECONDS)
            present = _present.get(self.directory)
            if present is None or not present.mine:
                _present[self.directory] = Presence(self.directory / "tonnetz.programs", self.account)
        return server.url

    def leave(self) -> None:
        """Stop using the server. The last process that uses the server stops it."""
        present = _present.get(self.directory)
        if present is None or not present.mine:
            return
        with exclusive(self._lock, self.account, seconds=_LOCK_SECONDS):
            del _present[self.directory]
            if present.leave():
                postmaster.stop(self.directory)

    def _create(self) -> None:
        # initdb writes to a new folder, which is renamed at the end: an interrupted initdb must not look like a database.
        new = self.directory.with_name(f"{self.directory.name}.new")
        if new.is_dir() and not new.is_symlink():
            shutil.rmtree(new)
        new.mkdir(mode=0o700)
        self.account.own(new)
        options = [part for name, value in _CONFIGURATION.items() for part in ("--set", f"{name}={value}")]
        access = ["--auth-local=trust", "--auth-host=reject", "--username=postgres", "--encoding=utf8"]
        ended = self.account.run(
            [self.programs / "initdb", "--no-instructions", *access, *options, "--pgdata", new], timeout=_CREATE_SECONDS
        )
        if ended.returncode:
            shutil.rmtree(new, ignore_errors=True)
            reason = next((line for line in ended.stderr.splitlines() if "error:" in line), "no reason was given")
            raise DatabaseUnavailable(f"the embedded database could not be created: {reason.partition('error:')[2]}")
        new.rename(self.directory)


def start_embedded(data_dir: Path) -> SecretStr:
    """Start the server of `data_dir/postgres`, or use the running one, and return its URL.

    The last process that uses the server stops it. If that process is killed, the server keeps running; then the next
    process that uses it and ends stops it. The server listens only on a unix socket, in a folder that only its user can
    enter. Raises ConfigurationError if the package is not installed, the directory has another version, or there is no
    private folder for the socket; raises DatabaseUnavailable if the server does not start.
    """
    with _failures():
        return _of(data_dir).use()


def stop_embedded(data_dir: Path) -> None:
    """Stop using the server of `data_dir/postgres`; the last process that uses it stops it."""
    with _failures():
        _of(data_dir).leave()


def _of(data_dir: Path) -> EmbeddedServer:
    if os.name != "posix":
        raise ConfigurationError("the embedded database runs on Linux and macOS; set DATABASE_URL")
    directory = (data_dir / "postgres").expanduser().resolve()
    try:
        version = read_version(directory)
    except ValueError:
        raise ConfigurationError(
            "TONNETZ_DATA_DIR contains a database of an unknown version (see its file postgres/PG_VERSION); "
            "use another directory"
        ) from None
    if version is not None and version != present_version():
        raise ConfigurationError(
            f"TONNETZ_DATA_DIR contains a database of PostgreSQL {version}, but this program uses "
            f"{present_version()}; {_upgrade_advice(version)}, or use another directory"
        )
    return EmbeddedServer(directory, present_version())


@contextmanager
def serve_older(directory: Path) -> Iterator[SecretStr]:
    """Run a server on the directory with the PostgreSQL version that made it, and return its URL.

    Raises ConfigurationError if there is no database or the package has no programs of its version,
    DatabaseUnavailable if the server does not start.
    """
    directory = directory.expanduser().resolve()
    try:
        version = read_version(directory)
    except (OSError, ValueError):
        version = None
    if version not in binaries():
        brought = " and ".join(str(one) for one in sorted(binaries()))
        raise ConfigurationError(
            f"--from: the folder contains no database of PostgreSQL {brought} (see its file PG_VERSION); "
            "name the folder that you renamed"
        )
    server = EmbeddedServer(directory, version)
    try:
        url = server.use()
    except AppError as error:
        raise type(error)(f"--from: {error.message}") from error
    try:
        yield url
    finally:
        server.leave()


def read_version(directory: Path) -> int | None:
    """The PostgreSQL version of a data directory; None if there is no database. Raises ValueError if it is unreadable."""
    try:
        return int((directory / "PG_VERSION").read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        return None


def _upgrade_advice(version: int) -> str:
    if version > present_version():
        return "use the newer version of the program that made it"
    if version not in binaries():
        return f"move its rows with pg_dump of PostgreSQL {version}"
    # Do not use pg_upgrade: it keeps the stored lexemes, and the older PostgreSQL may have stemmed words differently.
    return (
        f"stop all programs that use it, rename its folder postgres to postgres-{version} and run "
        f"scripts/migrate.py --from TONNETZ_DATA_DIR/postgres-{version} (docs/upgrade.md)"
    )


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatabaseUnavailable(
            f"the embedded database cannot use TONNETZ_DATA_DIR ({error.strerror or type(error).__name__}); "
            "choose a writable directory"
        ) from error
    except subprocess.SubprocessError as error:
        raise DatabaseUnavailable(f"the embedded database did not start ({type(error).__name__})") from error


def _make_folders(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            # Set the mode here, because root's umask may forbid the server's user to enter the folder.
            path.chmod(0o711)


@atexit.register
def _leave_all() -> None:
    for directory in list(_present):
        with suppress(AppError, OSError, ValueError):
            EmbeddedServer(directory, read_version(directory) or present_version()).leave()
