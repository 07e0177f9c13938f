"""Attacks the embedded server as another user of the machine: its socket, its folders, its lock."""

import os
import pwd
import stat
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from shared.embedded.account import Account, choose_account
from shared.embedded.server import start_embedded, stop_embedded
from shared.embedded.sockets import choose_folder, require_private
from shared.errors import ConfigurationError
from tests.embedded.conftest import ATTACKER, USE, Program, RunAs, long_path, modes, server_pid

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="tests what root does")
OTHER = 1  # "daemon", a user that every Unix has

CONNECT = """
with psycopg.connect(sys.argv[1], connect_timeout=5) as connection:
    print("current user", *connection.execute("select current_user").fetchone())
"""


@pytest.fixture(params=["short path", "long path"])
def data(request: pytest.FixtureRequest, folder: Path) -> Path:
    return long_path(folder) if request.param == "long path" else folder / "data"


def attack(run_as: RunAs, url: str) -> None:
    """Try to become a superuser of the database, as another user."""
    ended = run_as(ATTACKER, CONNECT, url)
    assert ended.returncode != 0
    assert "current user" not in ended.stdout
    assert "Permission denied" in ended.stderr
    socket_folder = Path(str(conninfo_to_dict(url)["host"]))
    assert stat.S_IMODE(socket_folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((socket_folder / ".s.PGSQL.5432").stat().st_mode) == 0o700
    assert (socket_folder / ".s.PGSQL.5432").stat().st_uid == socket_folder.stat().st_uid


def test_no_other_user_reaches_a_server_that_root_started(data: Path, run_as: RunAs) -> None:
    attack(run_as, start_embedded(data).get_secret_value())


def test_no_other_user_reaches_a_server_that_a_user_started(data: Path, folder: Path, run_as: RunAs) -> None:
    os.chown(folder, OTHER, OTHER)
    with Program(data, OTHER) as program:
        attack(run_as, program.url)


def test_the_socket_does_not_depend_on_the_folder_above_it(folder: Path, run_as: RunAs) -> None:
    """The folder is private; the socket is too, so that a changed mode of the folder opens nothing."""
    url = start_embedded(folder / "data").get_secret_value()
    (folder / "data" / "postgres").chmod(0o711)
    assert "Permission denied" in run_as(ATTACKER, CONNECT, url).stderr
    with pytest.raises(ConfigurationError, match=r"which other users can enter \(mode 0711"):
        start_embedded(folder / "data")
    (folder / "data" / "postgres").chmod(0o700)


@AS_ROOT
def test_the_server_of_root_runs_as_a_user_without_the_group_of_root(folder: Path) -> None:
    start_embedded(folder)
    status = Path(f"/proc/{server_pid(folder)}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert "0" not in fields["Uid"].split()
    assert "0" not in fields["Gid"].split()
    assert "0" not in fields["Groups"].split()


def test_the_server_has_no_key_of_its_program_in_its_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-s3cret-value")
    with psycopg.connect(start_embedded(folder).get_secret_value()) as owner:
        owner.execute("create temporary table printed (line text)")
        owner.execute("copy printed from program 'env'")
        lines = [line for (line,) in owner.execute("select line from printed")]
    assert any(line.startswith("PATH=") for line in lines)
    assert not any("s3cret" in line for line in lines)


@AS_ROOT
def test_a_closed_folder_is_named_and_stays_closed(folder: Path, run_as: RunAs) -> None:
    closed = folder / "closed"
    (closed / "project").mkdir(parents=True)
    (closed / "project" / ".env").write_text("FUNCTIONS_API_KEY=topsecret-0123456789\n")
    closed.chmod(0o700)
    before = modes(closed / "project")
    with pytest.raises(ConfigurationError, match=f"cannot enter {closed};") as refused:
        start_embedded(closed / "project" / ".tonnetz")
    assert "\n" not in refused.value.message
    assert modes(closed / "project") == before
    read = "print(open(sys.argv[1]).read())"
    assert "Permission denied" in run_as(ATTACKER, read, closed / "project" / ".env").stderr


@AS_ROOT
def test_a_start_changes_the_mode_of_no_folder_above(folder: Path) -> None:
    (folder / "project").mkdir(mode=0o711)
    before = modes(folder / "project")
    umask = os.umask(0o077)
    try:
        start_embedded(folder / "project" / ".tonnetz")
    finally:
        os.umask(umask)
    assert modes(folder / "project") == before


@AS_ROOT
def test_root_uses_the_database_of_a_user_as_that_user(folder: Path, run_as: RunAs) -> None:
    os.chown(folder, OTHER, OTHER)
    assert run_as(OTHER, USE, folder / "data").returncode == 0
    start_embedded(folder / "data")
    assert Path(f"/proc/{server_pid(folder / 'data')}").stat().st_uid == OTHER
    stop_embedded(folder / "data")
    # Root has left no file that the user cannot open.
    ended = run_as(OTHER, USE, folder / "data")
    assert ended.returncode == 0, ended.stderr


def test_the_database_of_another_user_is_refused(folder: Path, run_as: RunAs) -> None:
    start_embedded(folder / "data")
    (folder / "data" / "postgres").chmod(0o755)
    (folder / "data" / "postgres" / "PG_VERSION").chmod(0o644)
    ended = run_as(OTHER, USE, folder / "data")
    assert "its folder postgres belongs to the user" in ended.stderr
    (folder / "data" / "postgres").chmod(0o700)


# The folder of the socket


@pytest.mark.parametrize("kind", ["open to others", "of another user", "a link", "missing"])
def test_a_socket_folder_that_is_not_private_is_refused(folder: Path, kind: str) -> None:
    current = Account(pwd.getpwuid(os.geteuid()).pw_name, os.geteuid(), os.getegid(), other=False)
    place = folder / "sockets"
    place.mkdir(mode=0o700)
    require_private(place, current)
    if kind == "open to others":
        place.chmod(0o750)
    elif kind == "of another user":
        current = Account("other", os.geteuid() + 1, os.getegid(), other=False)
    else:
        place.rename(folder / "elsewhere")
        if kind == "a link":
            place.symlink_to(folder / "elsewhere")
    with pytest.raises(ConfigurationError, match=str(place)):
        require_private(place, current)


def test_a_folder_for_temporary_files_that_others_can_change_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = long_path(folder) / "postgres"
    data.mkdir(parents=True, mode=0o700)
    unsafe = folder / "unsafe"
    unsafe.mkdir()
    unsafe.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(unsafe))
    current = Account(pwd.getpwuid(os.geteuid()).pw_name, os.geteuid(), os.getegid(), other=False)
    chosen = choose_folder(data, current)
    try:
        assert chosen.parent == Path("/tmp").resolve()
        assert choose_folder(data, current) == chosen, "the address stays the same"
        monkeypatch.setattr("shared.embedded.sockets._is_safe", lambda _: False)
        (data / "tonnetz.socket").unlink()
        with pytest.raises(ConfigurationError, match="too long for a socket"):
            choose_folder(data, current)
    finally:
        chosen.rmdir()


@AS_ROOT
def test_a_machine_without_useradd_gets_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.embedded.account.SYSTEM_USER", "tonnetz-missing")
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(ConfigurationError, match="useradd --system tonnetz-missing"):
        choose_account(folder / "new")
