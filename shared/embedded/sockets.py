"""Chooses the folder of an embedded server's socket: one that only the user of the server can enter."""

import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from shared.embedded.account import Account
from shared.errors import ConfigurationError

PORT = 5432
_SOCKET = f".s.PGSQL.{PORT}"
# The most bytes of a socket's path, without the zero byte at its end.
_LONGEST = 107 if sys.platform == "linux" else 103


def choose_folder(directory: Path, account: Account) -> Path:
    """The data directory if its path is short enough for a socket, or else a new one in the folder for temporary files.

    A folder that an earlier start chose is used again. Raises ConfigurationError if no folder is private.
    """
    if _fits(directory):
        require_private(directory, account)
        return directory
    remembered = directory / "tonnetz.socket"
    with suppress(OSError, ConfigurationError):
        folder = Path(remembered.read_text(encoding="utf-8"))
        require_private(folder, account)
        return folder
    folder = _make_folder(directory, account)
    # The server's user writes the file, because root must not follow a link that this user may have made.
    account.run(["/bin/sh", "-c", 'printf %s "$1" >"$2"', "sh", folder, remembered], timeout=10)
    return folder


def require_private(folder: Path, account: Account) -> None:
    """Raise ConfigurationError if the folder is not the user's own, or others can enter it."""
    try:
        found = folder.lstat()
    except OSError as error:
        raise ConfigurationError(
            f"the folder of the embedded database's socket cannot be used: {folder} ({error.strerror})"
        ) from None
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != account.uid or mode & 0o077:
        raise ConfigurationError(
            f"the embedded database's socket would be in {folder}, which other users can enter (mode {mode:04o}, "
            f"user id {found.st_uid}); it must be a folder of the user {account.name} with mode 0700"
        )


def _make_folder(directory: Path, account: Account) -> Path:
    for parent in dict.fromkeys((Path(tempfile.gettempdir()).resolve(), Path("/tmp").resolve())):
        # The name has the length of those that mkdtemp makes. mkdtemp creates a new folder with mode 0700.
        if not _fits(parent / "tonnetz-12345678") or not _is_safe(parent) or account.first_closed([parent]):
            continue
        with suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="tonnetz-", dir=parent))
            account.own(folder)
            require_private(folder, account)
            return folder
    raise ConfigurationError(
        f"TONNETZ_DATA_DIR: the path of {directory} is too long for a socket ({_LONGEST} bytes), and there is no "
        "private folder for temporary files (TMPDIR); use a directory with a shorter path"
    )


def _is_safe(folder: Path) -> bool:
    """Whether no other user can replace what is in the folder."""
    for path in (folder, *folder.parents):
        found = path.stat()
        shared = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
        if shared or found.st_uid not in (0, os.geteuid()):
            return False
    return True


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / _SOCKET)) <= _LONGEST
