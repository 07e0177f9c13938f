"""Copies an older embedded database into a new one with pg_dump and psql."""

import os
import subprocess
import tempfile
from pathlib import Path

from pydantic import SecretStr

from shared.database.postgres import connect
from shared.embedded.binaries import client_binaries
from shared.embedded.server import serve_older
from shared.errors import ConfigurationError, DatabaseContractError, DatabaseUnavailable

REFRESH_FULL_TEXT = Path(__file__).with_name("refresh_full_text.sql")

# Objects that initdb creates have smaller oids.
_FIRST_OWN_OBJECT = 16384


def transfer(source: Path, url: SecretStr) -> None:
    """Copy roles, tables, rows, vectors and grants of the folder `source` into the empty embedded database at `url`.

    The copy is one transaction, and the source is only read. Vectors are copied; full-text lexemes are computed again.
    Raises ConfigurationError if the source is not a database of a known version or the database at `url` is not empty,
    DatabaseContractError if a step fails.
    """
    source = source.expanduser().resolve()
    with connect(url, application_name="tonnetz-migrate") as connection:
        if connection.execute("select oid from pg_class where oid >= %s limit 1", [_FIRST_OWN_OBJECT]).fetchone():
            raise ConfigurationError(
                "--from needs an empty database, but TONNETZ_DATA_DIR contains tables; rename its folder postgres first"
            )
    try:
        with serve_older(source) as older, tempfile.TemporaryDirectory(prefix="dump-", dir=source.parent) as folder:
            if older == url:
                raise DatabaseUnavailable(
                    "--from: a server was still running on the renamed folder; it is stopped now, run this again"
                )
            _copy(older, url, Path(folder))
    except OSError as error:
        raise ConfigurationError(
            f"--from: cannot write a dump beside the folder ({error.strerror or type(error).__name__}); "
            "move the folder to a disk with free space"
        ) from error


def _copy(older: SecretStr, url: SecretStr, folder: Path) -> None:
    # Use files instead of a pipe: for psql a broken pipe is the end of the rows, so it would commit an incomplete copy.
    roles, database = folder / "roles.sql", folder / "database.sql"
    # Use the pg_dump of the new version, which writes what the new server expects. The role postgres exists already.
    created = _run("pg_dumpall", older, "--roles-only")
    roles.write_text(created.replace("CREATE ROLE postgres;\n", ""), encoding="utf-8")
    _run("pg_dump", older, f"--file={database}")
    scripts = [f"--file={path}" for path in (roles, database, REFRESH_FULL_TEXT)]
    # Search weighs words by the planner's statistics, which a dump does not contain.
    _run("psql", url, "-X", "-q", "-1", "-o", os.devnull, "-v", "ON_ERROR_STOP=1", *scripts, "-c", "analyze")


def _run(program: str, url: SecretStr, *arguments: str) -> str:
    ended = subprocess.run(
        [str(client_binaries() / program), f"--dbname={url.get_secret_value()}", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if ended.returncode:
        # Use only the first line, because later lines may quote rows.
        reason = next((line for line in ended.stderr.splitlines() if "error:" in line.lower()), "no reason was given")
        raise DatabaseContractError(f"--from: nothing was copied: {reason}")
    return ended.stdout
