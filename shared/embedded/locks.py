"""Locks a data directory: one lock for starting and stopping its server, and one that each program holds while it uses
the server.
"""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.embedded.account import Account
from shared.errors import DatabaseUnavailable

_POLL_SECONDS = 0.02


@contextmanager
def exclusive(path: Path, account: Account, *, seconds: float) -> Iterator[None]:
    """Hold the lock file of a data directory. Raises DatabaseUnavailable after `seconds`, and names the lock's holder."""
    file = open_lock(path, account)
    try:
        deadline = time.monotonic() + seconds
        while not _try(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                holder = os.pread(file, 20, 0).decode("utf-8", "replace").strip() or "unknown"
                raise DatabaseUnavailable(
                    f"the embedded database did not start: waited {seconds:.0f} s for {path}, "
                    f"which process {holder} has locked"
                )
            time.sleep(_POLL_SECONDS)
        # The process id is written only for the message above. If a process is killed, the system releases its lock.
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(file)


def open_lock(path: Path, account: Account) -> int:
    """Open a lock file that only its user can open. Raises DatabaseUnavailable if it is not a file of that user."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        file = os.open(path, flags, 0o600)
    except OSError as error:
        raise DatabaseUnavailable(
            f"the embedded database cannot use the lock file {path} ({error.strerror}); check its owner, or remove it"
        ) from error
    found = os.fstat(file)
    # If the file has a second name (st_nlink), another user may have made a link to a file of this user.
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in (os.geteuid(), account.uid) or found.st_nlink != 1:
        os.close(file)
        raise DatabaseUnavailable(f"the embedded database cannot use {path}: it belongs to another user; remove it")
    with suppress(OSError):
        os.fchmod(file, 0o600)
        account.own(file)
    return file


class Presence:
    """Marks a program as a user of the server, for as long as the program runs.

    It is a shared lock. The system releases it when the process ends, even if it is killed. A list of process ids could
    be out of date.
    """

    def __init__(self, path: Path, account: Account) -> None:
        self._file = open_lock(path, account)
        self._pid = os.getpid()
        fcntl.flock(self._file, fcntl.LOCK_SH)

    @property
    def mine(self) -> bool:
        """Whether this process itself took the lock, and not the process from which it was forked."""
        return self._pid == os.getpid()

    def leave(self) -> bool:
        """Release the lock, and return whether no other program uses the server. Call this under the exclusive lock."""
        try:
            return _try(self._file, fcntl.LOCK_EX)
        finally:
            os.close(self._file)


def _try(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
