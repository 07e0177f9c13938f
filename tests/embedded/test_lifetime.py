"""Tests when the embedded server starts and stops: programs that share it, locks, crashes, reused process ids, logs."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from shared.embedded import postmaster, server
from shared.embedded.account import choose_account
from shared.embedded.server import start_embedded, stop_embedded
from shared.errors import DatabaseUnavailable
from tests.embedded.conftest import Program, environment, is_running, server_pid


def test_the_last_program_that_uses_the_server_stops_it(folder: Path) -> None:
    with Program(folder) as first:
        with Program(folder) as second:
            assert first.url == second.url
        assert is_running(folder)
        psycopg.connect(first.url).close()
    assert not is_running(folder)


def test_a_killed_program_does_not_keep_the_server_running(folder: Path) -> None:
    with Program(folder):
        with Program(folder) as killed:
            killed.process.kill()
        assert is_running(folder)
    assert not is_running(folder)


def test_a_program_may_stop_and_start_the_server_again(folder: Path) -> None:
    url = start_embedded(folder)
    assert start_embedded(folder) == url
    stop_embedded(folder)
    assert not is_running(folder), "two starts of one program count once"
    assert start_embedded(folder) == url
    psycopg.connect(url.get_secret_value()).close()


def test_a_forked_process_does_not_stop_the_server_of_its_parent(folder: Path) -> None:
    start_embedded(folder)
    program = f"""
import os, sys, time
from pathlib import Path
from shared.embedded.server import start_embedded
start_embedded(Path({str(folder)!r}))
if os.fork():
    os.wait()
    print((Path({str(folder)!r}) / "postgres" / "postmaster.pid").exists())
"""
    stop_embedded(folder)
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.stdout, ended.stderr) == ("True\n", "")
    assert not is_running(folder)


# Locks


@contextmanager
def locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_locked_data_directory_is_waited_for_and_its_holder_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_LOCK_SECONDS", 0.3)
    path = folder / "postgres.lock"
    path.write_text("4711\n")
    started = time.monotonic()
    with locked(path), pytest.raises(DatabaseUnavailable, match=f"waited 0 s for {path}, which process 4711"):
        start_embedded(folder)
    assert time.monotonic() - started < 15
    start_embedded(folder)


def test_a_lock_in_the_folder_for_temporary_files_stops_no_start(folder: Path) -> None:
    with locked(folder / "tmp" / ".lockfile"):
        environment_of = environment(folder) | {"TMPDIR": str(folder / "tmp")}
        (folder / "tmp").chmod(0o1777)
        program = (
            f"from pathlib import Path; import shared.embedded.server as s; s.start_embedded(Path({str(folder)!r}))"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program], env=environment_of, capture_output=True, text=True, timeout=60
        )
        assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["link", "second name", "pipe"])
def test_a_lock_file_that_another_user_prepared_is_refused(folder: Path, kind: str) -> None:
    path, precious = folder / "postgres.lock", folder / "precious"
    precious.write_text("keys")
    precious.chmod(0o644)
    if kind == "link":
        path.symlink_to(precious)
    elif kind == "second name":
        path.hardlink_to(precious)
    else:
        os.mkfifo(path)
    with pytest.raises(DatabaseUnavailable, match=str(path)):
        start_embedded(folder)
    assert (precious.read_text(), precious.stat().st_mode & 0o777) == ("keys", 0o644)


# Ends without a shutdown


def test_a_crashed_server_starts_again_at_its_address(folder: Path) -> None:
    url = start_embedded(folder).get_secret_value()
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("create table kept as select 1 as n")
    os.kill(server_pid(folder), signal.SIGKILL)
    assert start_embedded(folder).get_secret_value() == url
    with psycopg.connect(url) as owner:
        assert owner.execute("select n from kept").fetchone() == (1,)


def test_a_reused_process_id_does_not_prevent_a_start(folder: Path) -> None:
    """After a crash, postmaster.pid contains a process id that now belongs to another program of the same user."""
    start_embedded(folder)
    data = folder / "postgres"
    lines = (data / "postmaster.pid").read_text().splitlines()
    stop_embedded(folder)
    account = choose_account(data)
    options = {"user": account.uid, "group": account.gid} if account.other else {}
    with subprocess.Popen(["sleep", "600"], cwd="/", **options) as other:  # type: ignore[call-overload]
        try:
            for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
                (data / name).write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
                account.own(data / name)
            psycopg.connect(start_embedded(folder).get_secret_value()).close()
            stop_embedded(folder)
            assert other.poll() is None, "a stop ends no other process"
        finally:
            other.kill()


def test_a_copied_folder_does_not_use_the_server_of_the_original(folder: Path) -> None:
    url = start_embedded(folder / "one").get_secret_value()
    copied = folder / "two" / "postgres"
    ignore = shutil.ignore_patterns(".s.PGSQL*")
    shutil.copytree(folder / "one" / "postgres", copied, ignore=ignore)
    account = choose_account(folder / "one" / "postgres")
    for path in (copied, *copied.rglob("*")):
        account.own(path)
    other = start_embedded(folder / "two").get_secret_value()
    assert other != url
    psycopg.connect(other).close()


def test_an_interrupted_creation_is_not_taken_for_a_database(folder: Path) -> None:
    (folder / "postgres.new").mkdir()
    (folder / "postgres.new" / "PG_VERSION").write_text("18\n")
    psycopg.connect(start_embedded(folder).get_secret_value()).close()
    assert not (folder / "postgres.new").exists()


def test_a_server_that_ends_while_it_starts_is_reported_with_its_reason(folder: Path) -> None:
    start_embedded(folder)
    stop_embedded(folder)
    with (folder / "postgres" / "postgresql.conf").open("a") as configuration:
        configuration.write("max_connections = 0\n")
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailable, match="see the file log") as failed:
        start_embedded(folder)
    assert time.monotonic() - started < 60
    assert "\n" not in failed.value.message


# Output


def test_logs_have_a_size_and_contain_no_statement(folder: Path) -> None:
    with psycopg.connect(start_embedded(folder).get_secret_value(), autocommit=True) as owner:
        with pytest.raises(psycopg.errors.UndefinedColumn):
            owner.execute("select s3cret_column /* s3cret-text */")
        (current,) = owner.execute("select pg_current_logfile()").fetchone() or ("",)
        settings = dict(owner.execute("select name, setting from pg_settings where name like 'log%'").fetchall())
    assert settings["log_rotation_age"] == "1440"
    assert settings["log_truncate_on_rotation"] == "on"
    log = folder / "postgres" / current
    assert (log.parent.name, log.suffix, log.stat().st_mode & 0o777) == ("logs", ".log", 0o600)
    deadline = time.monotonic() + 30
    while "s3cret_column" not in log.read_text():
        assert time.monotonic() < deadline, "another process writes the log, a moment later"
        time.sleep(0.05)
    assert "s3cret-text" not in log.read_text()


def test_old_and_very_large_logs_are_removed_at_a_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postmaster, "_LARGEST_LOG", 1000)
    start_embedded(folder)
    stop_embedded(folder)
    logs = folder / "postgres" / "logs"
    for name, size, days in (("server-Old.log", 1, 8), ("server-Big.log", 1001, 0), ("server-New.log", 1, 1)):
        (logs / name).write_text("x" * size)
        os.utime(logs / name, (time.time() - days * 86_400,) * 2)
    (logs / "notes").write_text("x" * 2000)
    start_embedded(folder)
    left = {path.name for path in logs.iterdir()}
    assert {"server-New.log", "notes"} <= left
    assert not left & {"server-Old.log", "server-Big.log"}


def test_a_start_prints_nothing(folder: Path) -> None:
    """Neither a warning about XDG_RUNTIME_DIR, which is unset here, nor a line of PostgreSQL."""
    program = f"from pathlib import Path; import shared.embedded.server as s; s.start_embedded(Path({str(folder)!r}))"
    for _ in range(2):
        ended = subprocess.run(
            [sys.executable, "-c", program], env=environment(folder), capture_output=True, text=True, timeout=60
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert not list(Path(tempfile.gettempdir()).glob(f"*{folder.name}*"))
