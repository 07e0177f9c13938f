"""Lists the requirements of Tonnetz that a database does not meet, each with the statement that fixes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from shared.database.postgres import Connection

OLDEST, NEWEST = 15, 18
_LACKS = Path(__file__).with_suffix(".sql")


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that the database lacks. `fix` is an SQL statement or an instruction.

    If `required` is false, Tonnetz works without it.
    """

    what: str
    fix: str
    required: bool = True

    def __str__(self) -> str:
        return f"{'' if self.required else 'note: '}{self.what}: {self.fix}"


def list_lacks(connection: Connection) -> list[Lack]:
    """List everything that the database lacks. This writes nothing."""
    major = connection.info.server_version // 10000
    versions = f"Tonnetz needs PostgreSQL {OLDEST} to {NEWEST}"
    if major < OLDEST:
        return [Lack(f"this server is PostgreSQL {major}, but {versions}", "upgrade the server")]
    newer = Lack(f"this server is PostgreSQL {major}", f"nothing yet; {versions} and was not tested on it", False)
    rows = connection.execute(_LACKS.read_text(encoding="utf-8")).fetchall()
    return [Lack(what, fix, required) for required, what, fix in rows] + [newer] * (major > NEWEST)


def require_server(connection: Connection) -> None:
    """Raise ConfigurationError if the database lacks something that is required, with one line for each such thing."""
    if lacks := [lack for lack in list_lacks(connection) if lack.required]:
        raise ConfigurationError("\n".join(map(str, lacks)))
