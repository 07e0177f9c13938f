"""Chooses the system user of an embedded server, and runs PostgreSQL's programs as that user."""

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigurationError

# The system user of a server that root starts. It must not be used for anything else, because every program that runs as
# this user is a superuser of the database.
SYSTEM_USER = "tonnetz"

# The environment variables that PostgreSQL needs. It gets no others, because they may contain keys, and a superuser of
# the database can read the environment of the server.
_KEPT = (
    *("PATH", "LANG", "LANGUAGE", "LC_ALL", "LC_COLLATE", "LC_CTYPE", "LC_MESSAGES", "LC_MONETARY", "LC_NUMERIC"),
    *("LC_TIME", "TZ", "LD_LIBRARY_PATH"),
)
_CLEAN = "env -i " + " ".join(f'${{{name}+"{name}=${name}"}}' for name in _KEPT) + ' "$@"'
_SERVE = f'log=$1; shift; {_CLEAN} </dev/null >"$log" 2>&1 & echo $!'
_ENTER = 'for path; do test -x "$path" || { echo "$path"; exit 1; }; done'


@dataclass(frozen=True, slots=True)
class Account:
    """A system user. `other` is true if the current user is root, so that programs have to be started as this user."""

    name: str
    uid: int
    gid: int
    other: bool

    def own(self, file: int | Path) -> None:
        """Make this user the owner of the file, unless this user is the current one."""
        if self.other:
            os.chown(file, self.uid, self.gid, follow_symlinks=isinstance(file, int))

    def run(self, command: Sequence[str | Path], *, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a program of PostgreSQL and wait until it ends."""
        return self._start(["/bin/sh", "-c", f"exec {_CLEAN}", "sh", *command], timeout)

    def serve(self, command: Sequence[str | Path], log: Path) -> int:
        """Start a server that keeps running after this program has ended, and return its process id."""
        return int(self._start(["/bin/sh", "-c", _SERVE, "sh", log, *command], 10).stdout)

    def first_closed(self, paths: Sequence[Path]) -> Path | None:
        """The first of these paths that this user cannot enter or execute."""
        if not self.other:
            return None
        ended = self._start(["/bin/sh", "-c", _ENTER, "sh", *paths], 10)
        return Path(ended.stdout.removesuffix("\n")) if ended.returncode else None

    def _start(self, command: Sequence[str | Path], timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            # The server gets neither root's groups nor its umask, and starts in a folder that this user can enter.
            user=self.uid if self.other else None,
            group=self.gid if self.other else None,
            extra_groups=[] if self.other else None,
            umask=0o077,
            cwd="/",
            # Ctrl-C in the terminal must not reach the server.
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
        )


def choose_account(directory: Path) -> Account:
    """The user as which the server of this data directory runs: the current user, unless this is root.

    For root it is the owner of the existing directory, or else the system user `tonnetz`, which is created if it is
    missing. Raises ConfigurationError if the directory belongs to another user, or if there is no user for root to use.
    """
    current = os.geteuid()
    owner = directory.lstat().st_uid if directory.exists() else None
    if current:
        if owner not in (None, current):
            raise ConfigurationError(
                f"TONNETZ_DATA_DIR: its folder postgres belongs to the user {_name(owner)}; "
                "run this as that user, or use another directory"
            )
        return Account(_name(current), current, os.getegid(), other=False)
    if owner:
        return Account(_name(owner), owner, directory.lstat().st_gid, other=True)
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        entry = _create()
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, other=True)


def _create() -> pwd.struct_passwd:
    options = ["--system", "--user-group", "--no-create-home", "--home-dir=/nonexistent", "--shell=/usr/sbin/nologin"]
    try:
        subprocess.run(["useradd", *options, SYSTEM_USER], check=True, capture_output=True, timeout=30)
        return pwd.getpwnam(SYSTEM_USER)
    except (OSError, subprocess.SubprocessError, KeyError):
        raise ConfigurationError(
            f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} cannot be created here; "
            f"create it (useradd --system {SYSTEM_USER}), run this as another user, or set DATABASE_URL"
        ) from None


def _name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid or 0).pw_name
    except KeyError:
        return str(uid)


def require_entry(account: Account, directory: Path, programs: Path) -> None:
    """Raise ConfigurationError if the user cannot enter a folder above the data directory or above the programs."""
    for path, advice in (
        (directory, "use a TONNETZ_DATA_DIR elsewhere"),
        (programs / "postgres", "install the packages elsewhere"),
    ):
        folders = [*reversed(path.parents), *([path] if path.is_file() else [])]
        if closed := account.first_closed(folders):
            raise ConfigurationError(
                f"root starts the embedded database as the user {account.name}, who cannot enter {closed}; "
                f"{advice}, or allow it to enter (chmod o+x), run this as another user, or set DATABASE_URL"
            )
