"""Finds out whether a connection goes through a pooler, and in which mode the pooler works."""

import time
from contextlib import closing
from enum import StrEnum
from select import select

from psycopg.pq import ExecStatus
from pydantic import SecretStr

from shared.database.postgres import Connection, connect
from shared.errors import DatabaseBusy

# In transaction mode, two connections of this program usually get the same server process. While another program uses that
# process, they get different ones. So compare the processes several times.
_LOOKS = 5
# If all server processes of a pooler in session mode are reserved, the next client has to wait (two minutes with
# PgBouncer). Do not wait longer than this for the answer to a statement.
_WAIT_SECONDS = 3.0


class Pooling(StrEnum):
    """How a connection reaches the server."""

    DIRECT = "direct"
    SESSION = "session"
    TRANSACTION = "transaction"


def find_pooling(url: SecretStr, connection: Connection) -> Pooling:
    """Find out how this connection to the URL reaches the server. This changes nothing in the database.

    A pooler in session mode reserves a server process for each client; in transaction mode clients share the processes.
    To see which one it is, a second connection is opened if there is a pooler.
    """
    first = _server_process(connection)
    if first is None:
        raise DatabaseBusy("the server's pooler has no free connection: close other programs, or raise its pool size")
    # A pooler sends its clients another process id than that of the server.
    if first == connection.info.backend_pid:
        return Pooling.DIRECT
    try:
        second = connect(url, application_name="tonnetz-doctor")
    except DatabaseBusy:
        return Pooling.SESSION
    with closing(second):
        for _ in range(_LOOKS):
            if _server_process(connection) != first:
                return Pooling.TRANSACTION
            theirs = _server_process(second)
            if theirs is None:
                return Pooling.SESSION
            if theirs == first:
                return Pooling.TRANSACTION
    return Pooling.SESSION


def _server_process(connection: Connection) -> int | None:
    """The id of the server process that runs a statement of this connection; None if the statement has to wait."""
    wire = connection.pgconn
    wire.send_query(b"select pg_backend_pid()")
    wire.flush()
    ends = time.monotonic() + _WAIT_SECONDS
    while wire.is_busy():
        if not select([wire.socket], [], [], max(0.0, ends - time.monotonic()))[0]:
            return None
        wire.consume_input()
    found = None
    while result := wire.get_result():
        if result.status == ExecStatus.TUPLES_OK:
            found = int(result.get_value(0, 0) or 0)
    return found
