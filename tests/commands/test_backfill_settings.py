"""Tests scripts/backfill.py with wrong settings and flags, and with each kind of database connection."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.commands.backfill_rows import MUSIC, embedded, held, texts
from tests.commands.conftest import Command
from tests.database.rows import Connection, add
from tests.gateway import Gateway
from tests.pgbouncer import MODES, PgBouncer
from tests.postgres_cluster import Cluster
from tests.protocol_server import ProtocolServer


def one_line(result: object, *expected: str) -> None:
    """Assert exit code 2 and one line on stderr that names the variable or function and the fix."""
    from tests.commands.conftest import Result

    assert isinstance(result, Result)
    assert result.code == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in expected:
        assert part in lines[0]


# Configuration


def test_an_unreachable_database_is_one_line(command_with: Callable[..., Command]) -> None:
    command = command_with(DATABASE_URL="postgresql://user:hunter2@127.0.0.1:1/tonnetz")
    result = command("backfill.py")
    one_line(result, "cannot connect to the database", "DATABASE_URL")
    assert "hunter2" not in result.stderr


def test_an_unreachable_supabase_is_one_line(command_with: Callable[..., Command]) -> None:
    command = command_with(SUPABASE_URL="http://127.0.0.1:1", SUPABASE_SERVICE_ROLE_KEY="some-secret-key")
    result = command("backfill.py")
    one_line(result, "SUPABASE_URL")
    assert "some-secret-key" not in result.stderr


def test_a_database_without_the_migrations_is_one_line(cluster: Cluster, command_with: Callable[..., Command]) -> None:
    with cluster.empty() as url:
        one_line(command_with(DATABASE_URL=url.get_secret_value())("backfill.py"), "scripts/migrate.py")
        one_line(command_with(DATABASE_URL=url.get_secret_value())("backfill.py", *MUSIC), "scripts/migrate.py")


def test_wrong_settings_name_each_variable(command: Command) -> None:
    result = command("backfill.py", EMBEDDING_PROVIDER="cohere", LOG_LEVEL="chatty")
    assert result.code == 2
    assert "EMBEDDING_PROVIDER" in result.stderr
    assert "LOG_LEVEL" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"EMBEDDING_PROVIDER": "openai"}, "OPENAI_API_KEY"),
        ({"ONNX_MODEL": "/no/such/folder"}, "ONNX_MODEL"),
        ({"SUPABASE_URL": "https://x.supabase.co"}, "SUPABASE_SERVICE_ROLE_KEY"),
        ({"DATABASE_URL": "mysql://x"}, "DATABASE_URL"),
    ],
)
def test_a_wrong_setting_exits_2_and_names_the_variable(
    owner: Connection, command: Command, environment: dict[str, str], expected: str
) -> None:
    add(owner, "one")
    result = command("backfill.py", *MUSIC, **environment)
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert result.code == 2, result.stderr
    assert (embedded(owner), held(owner)) == (0, 0)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--lease-seconds", "1"), "--lease-seconds"),
        (("--batch-size", "0"), "--batch-size"),
        (("--workers", "0"), "--workers"),
        (("--batch-size", "5000"), "--batch-size"),
        (("--limit", "0"), "--limit"),
        (("--max-cost", "-1"), "--max-cost"),
        (("--workers", "9999"), "--workers"),
        (("--collection", "no_such"), '"no_such" is not tracked'),
        (("--no-such-flag",), "--no-such-flag"),
    ],
)
def test_a_wrong_flag_exits_2_and_is_named(command: Command, flags: tuple[str, ...], expected: str) -> None:
    result = command("backfill.py", *flags)
    assert result.code == 2
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


def test_max_cost_stops_before_it_is_passed(owner: Connection, command: Command) -> None:
    add(owner, *texts(40))
    with ProtocolServer(api_key="key-of-the-test") as server:
        openai = {
            "EMBEDDING_PROVIDER": "openai",
            "OPENAI_API_KEY": "key-of-the-test",
            "OPENAI_BASE_URL": server.openai_url,
        }
        estimated = command("backfill.py", *MUSIC, "--dry-run", "--json", **openai).report
        assert estimated["cost_usd"] > 0
        half = str(estimated["cost_usd"] / 2)
        result = command("backfill.py", *MUSIC, "--json", "--batch-size", "5", "--max-cost", half, **openai)
    assert result.code == 1
    assert 0 < result.report["embedded"] < 40
    assert result.report["cost_usd"] <= float(half)
    assert "--max-cost" in result.stderr
    assert held(owner) == 0


# The other two ways to the database


@pytest.mark.postgrest
def test_a_backfill_runs_through_supabase(
    owner: Connection, rest: Gateway, tokens: dict[str, str], command_with: Callable[..., Command]
) -> None:
    add(owner, *texts(30))
    command = command_with(SUPABASE_URL=rest.url, SUPABASE_SERVICE_ROLE_KEY=tokens["service_role"])
    result = command("backfill.py", *MUSIC, "--json", "--verify", LOG_LEVEL="DEBUG")
    assert result.code == 0, result.stderr
    assert (result.report["embedded"], embedded(owner)) == (30, 30)
    assert tokens["service_role"] not in result.stderr + result.stdout
    one_line(command("migrate.py"), "SUPABASE_URL", "supabase db push")
    wrong = command("backfill.py", *MUSIC, SUPABASE_SERVICE_ROLE_KEY="eyJ-not-the-key")
    one_line(wrong, "SUPABASE_SERVICE_ROLE_KEY")
    assert "eyJ-not-the-key" not in wrong.stderr


@pytest.mark.parametrize("mode", MODES)
def test_a_backfill_runs_through_a_pooler(
    cluster: Cluster, pooler: Callable[[str], PgBouncer], command_with: Callable[..., Command], mode: str
) -> None:
    with cluster.empty() as url:
        command = command_with(DATABASE_URL=pooler(mode).url(url).get_secret_value())
        migrated = command("migrate.py", "--seed", "--collections", "music_knowledge")
        assert (migrated.code, migrated.stdout, migrated.stderr) == (0, "applied 2 migrations\n", "")
        result = command("backfill.py", "--workers", "8", "--batch-size", "5", "--verify", "--json")
        assert result.code == 0, result.stderr
        assert result.report["embedded"] > 50


def test_with_nothing_configured_the_embedded_database_is_started_and_left_clean(
    command_with: Callable[..., Command],
) -> None:
    command = command_with()
    applied = command("migrate.py", "--seed")
    assert applied.code == 0, applied.stderr
    assert "applied" in applied.stdout
    assert command("migrate.py").stdout.strip() == "up to date"
    result = command("backfill.py", *MUSIC, "--json", "--verify")
    assert result.code == 0, result.stderr
    assert result.report["embedded"] >= 60
    assert command("backfill.py", *MUSIC, "--json").report["embedded"] == 0
    data = Path(command.environment["TONNETZ_DATA_DIR"])
    assert (data / "postgres/PG_VERSION").exists()
    assert not (data / "postgres/postmaster.pid").exists(), "the last process stops it"


def test_a_data_directory_that_cannot_be_used_is_one_line(command_with: Callable[..., Command], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    one_line(command_with(TONNETZ_DATA_DIR=str(tmp_path / "file" / "data"))("backfill.py"), "TONNETZ_DATA_DIR")


def test_a_closed_stdout_is_not_an_error(owner: Connection, command: Command) -> None:
    add(owner, "one")
    process = command.start("backfill.py", *MUSIC, "--json")
    assert process.stdout
    process.stdout.close()
    process.stdout = None
    result = command.finish(process)
    assert "Traceback" not in result.stderr
    assert result.code == 0
    assert isinstance(owner, psycopg.Connection)
