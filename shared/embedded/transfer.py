"""Everything of an older embedded database into a new one: pg_dump from there, psql into here."""

import os
import subprocess
import tempfile
from pathlib import Path

from pydantic import SecretStr

from shared.database.postgres import connect
from shared.embedded.server import client_binaries, serve_older
from shared.errors import ConfigurationError, DatabaseContractError, DatabaseUnavailable

REFRESH_FULL_TEXT = Path(__file__).with_name("refresh_full_text.sql")

# The objects of initdb have smaller numbers.
_FIRST_OWN_OBJECT = 16384


def transfer(source: Path, url: SecretStr) -> None:
    """Copy roles, tables, rows, vectors and grants of the folder `source` into the empty embedded database at `url`.

    All or nothing, and the source is only read. Vectors stay as they are, words are stemmed anew.
    Raises ConfigurationError where the source is no database of a known version or `url` is not empty,
    DatabaseContractError where a step fails.
    """
    source = source.expanduser().resolve()
    with connect(url, application_name="tonnetz-migrate") as connection:
        if connection.execute("select oid from pg_class where oid >= %s limit 1", [_FIRST_OWN_OBJECT]).fetchone():
            raise ConfigurationError(
                "--from fills an empty database, and TONNETZ_DATA_DIR holds tables; rename its folder postgres first"
            )
    try:
        with serve_older(source) as older, tempfile.TemporaryDirectory(prefix="dump-", dir=source.parent) as folder:
            if older == url:
                raise DatabaseUnavailable(
                    "--from: a server still ran on the folder from before it was renamed; it is stopped now, run this again"
                )
            _copy(older, url, Path(folder))
    except OSError as error:
        raise ConfigurationError(
            f"--from: no dump can be written beside the folder ({error.strerror or type(error).__name__}); "
            "move it to where there is room"
        ) from error


def _copy(older: SecretStr, url: SecretStr, folder: Path) -> None:
    # Files, and no pipe: one that breaks looks like the end of the rows, and what came so far would be kept.
    roles, database = folder / "roles.sql", folder / "database.sql"
    # By the present pg_dump, which knows what the present server expects. Its owner is there from the start.
    created = _run("pg_dumpall", older, "--roles-only")
    roles.write_text(created.replace("CREATE ROLE postgres;\n", ""), encoding="utf-8")
    _run("pg_dump", older, f"--file={database}")
    scripts = [f"--file={path}" for path in (roles, database, REFRESH_FULL_TEXT)]
    # Search weighs words by the planner's statistics, which a dump does not hold.
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
        # One line: those that follow may quote rows.
        reason = next((line for line in ended.stderr.splitlines() if "error:" in line.lower()), "no reason was given")
        raise DatabaseContractError(f"--from: nothing was copied: {reason}")
    return ended.stdout
