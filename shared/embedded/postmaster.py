"""Starts, finds and stops the server process (the postmaster) of a data directory."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from shared.embedded.account import Account
from shared.embedded.sockets import PORT, choose_folder
from shared.errors import DatabaseUnavailable

_POLL_SECONDS = 0.01
# Seconds for a fast shutdown, which writes a checkpoint. After this time an immediate shutdown follows.
_STOP_SECONDS = 30.0
_KEEP_LOGS_DAYS = 6
_LARGEST_LOG = 10 * 2**20

# These settings are given on the command line, so that they apply to every data directory and override postgresql.conf.
_OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    # One log file for each day of the week; a file is overwritten a week later.
    "logging_collector": "on",
    "log_destination": "stderr",
    "log_directory": "logs",
    "log_filename": "server-%a.log",
    "log_file_mode": "0600",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    # `_reason` below reads the log, so its messages must be in English.
    "lc_messages": "C",
}


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A running server, as its file postmaster.pid describes it."""

    pid: int
    directory: str
    socket_folder: str
    ready: bool

    @property
    def url(self) -> SecretStr:
        """The address of its database for the superuser."""
        return SecretStr(f"postgresql://postgres:@/postgres?host={quote(self.socket_folder)}&port={PORT}")


def find(directory: Path) -> Postmaster | None:
    """The server that runs on this data directory, or None."""
    found = _read(directory)
    if found is None:
        return None
    # The process of a server in another container is not visible here, but its socket is in the shared directory.
    own = found.directory == str(directory)
    return found if _serves(found.pid, directory) or (own and _answers(found.socket_folder)) else None


def start(directory: Path, programs: Path, account: Account, *, seconds: float) -> Postmaster:
    """Start a server on the data directory and wait until it is ready. Call this under the exclusive lock.

    Raises DatabaseUnavailable if the server ends, or if it is not ready after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        pid = _launch(directory, programs, account)
        try:
            return wait_until_ready(directory, pid, seconds=deadline - time.monotonic())
        except DatabaseUnavailable as error:
            # After a crash of the server, its other processes still hold the shared memory for a moment.
            if "shared memory block" not in error.message or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _launch(directory: Path, programs: Path, account: Account) -> int:
    folder = choose_folder(directory, account)
    _remove_stale(directory, folder)
    _remove_old_logs(directory, account)
    options = [part for name, value in _OPTIONS.items() for part in ("-c", f"{name}={value}")]
    # The setting is a list, so a path with a comma needs quotes.
    sockets = '"' + str(folder).replace('"', '""') + '"'
    arguments = ["-D", str(directory), "-k", sockets, "-p", str(PORT), *options]
    return account.serve([programs / "postgres", *arguments], directory / "log")


def wait_until_ready(directory: Path, pid: int, *, seconds: float) -> Postmaster:
    """Wait until the server accepts connections. Raises DatabaseUnavailable if it ends or is not ready in `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = _read(directory)
        if found is not None and found.pid == pid and found.ready:
            return found
        if not is_alive(pid):
            raise DatabaseUnavailable(
                f"the embedded database did not start{_reason(directory)}; "
                "see the file log and the folder logs in TONNETZ_DATA_DIR/postgres"
            )
        time.sleep(_POLL_SECONDS)
    raise DatabaseUnavailable(
        f"the embedded database was not ready after {seconds:.0f} s; it may be reading its log after a crash: "
        "try again, and see the folder logs in TONNETZ_DATA_DIR/postgres"
    )


def stop(directory: Path) -> None:
    """Stop the server of the data directory, if one runs, and wait for its end."""
    found = find(directory)
    # A server in another container is stopped by the programs in that container.
    if found is None or not _serves(found.pid, directory):
        return
    for how in (signal.SIGINT, signal.SIGQUIT):
        with suppress(ProcessLookupError):
            os.kill(found.pid, how)
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline:
            if not is_alive(found.pid):
                return
            time.sleep(_POLL_SECONDS)


def _read(directory: Path) -> Postmaster | None:
    """Read postmaster.pid; None if it does not exist. A starting server writes it line by line, so lines may be missing."""
    try:
        lines = (directory / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        lines += [""] * (8 - len(lines))
        return Postmaster(int(lines[0]), lines[1], lines[4], lines[7].strip() == "ready")
    except (OSError, ValueError):
        return None


def is_alive(pid: int) -> bool:
    """Whether the process runs. A zombie (ended, but its parent has not read the exit code) does not count as running."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in ("Z", "X")
    return True


def _serves(pid: int, directory: Path) -> bool:
    """Whether this process is the server of the directory, and not another one with a reused process id."""
    if pid <= 0 or not is_alive(pid):
        return False
    if sys.platform != "linux":
        listed = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)
        return f"postgres -D {directory} ".encode() in listed.stdout
    process = Path(f"/proc/{pid}")
    try:
        arguments = (process / "cmdline").read_bytes().split(b"\0")
        if os.path.basename(arguments[0]) != b"postgres":
            return False
        try:
            # This works for a renamed folder too. A container may forbid it to root if the server runs as another user.
            return os.path.samefile(process / "cwd", directory)
        except PermissionError:
            return os.fsencode(directory) in arguments
    except OSError:
        return False


def _answers(socket_folder: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(f"{socket_folder}/.s.PGSQL.{PORT}")
        except OSError:
            return False
    return True


def _remove_stale(directory: Path, socket_folder: Path) -> None:
    """Remove the lock files of a server that has ended, if its process id is in use.

    The id may belong to another process, or the ended process is still listed. PostgreSQL would assume that this process
    is the server, and refuse to start. If the server does run, PostgreSQL detects it by its shared memory.
    """
    for path in (directory / "postmaster.pid", socket_folder / f".s.PGSQL.{PORT}.lock"):
        with suppress(OSError, ValueError):
            pid = int(path.read_text(errors="replace").splitlines()[0])
            os.kill(pid, 0)
            if not _serves(pid, directory):
                path.unlink()


def _remove_old_logs(directory: Path, account: Account) -> None:
    """Remove log files that are older than a week or very large, because a new server appends to existing files."""
    with suppress(OSError):
        folder = os.open(directory / "logs", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(folder).st_uid != account.uid:
                return
            for name in os.listdir(folder):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                age = time.time() - found.st_mtime
                if name.startswith("server-") and (age > _KEEP_LOGS_DAYS * 86_400 or found.st_size > _LARGEST_LOG):
                    os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)


def _reason(directory: Path) -> str:
    with suppress(OSError):
        for line in (directory / "log").read_text(encoding="utf-8", errors="replace").splitlines():
            if "FATAL:" in line:
                return f" ({line.partition('FATAL:')[2].strip()})"
    return ""
