"""Tests scripts/backfill.py: flags, exit codes, stdout and stderr."""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence

import pytest
from pydantic import SecretStr

from tests.commands.backfill_rows import MUSIC, embedded, held, texts
from tests.commands.conftest import Command
from tests.database.rows import Connection, add, edit, queued

FIELDS = {
    "collection", "model", "processed", "embedded", "failed", "stale",
    "reused", "truncated", "tokens", "cost_usd", "seconds",
}  # fmt: skip
ESTIMATE_FIELDS = {"collection", "model", "rows", "rows_estimated", "texts", "tokens", "cost_usd"}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_json_prints_exactly_the_documented_fields_and_nothing_else_to_stdout(
    owner: Connection, command: Command
) -> None:
    add(owner, *texts(60), "same", "same")
    result = command("backfill.py", *MUSIC, "--json")
    assert result.code == 0, result.stderr
    report = result.report
    assert set(report) == {*FIELDS, "collections"}
    (part,) = report["collections"]
    assert part == {name: report[name] for name in FIELDS}
    assert (report["collection"], report["processed"], report["embedded"], report["failed"]) == (
        "music_knowledge",
        62,
        62,
        0,
    )
    assert (report["reused"], report["cost_usd"]) == (1, 0)
    assert report["tokens"] > 60
    assert report["seconds"] > 0
    assert embedded(owner) == 62

    again = command("backfill.py", *MUSIC, "--json", "--verify")
    assert again.code == 0
    assert (again.report["processed"], again.report["embedded"], again.report["failed"]) == (0, 0, 0)
    assert "0 rows have a wrong vector" in again.stderr

    ids = [row[0] for row in owner.execute("select id::text from music_knowledge order by id limit 3").fetchall()]
    for row_id in ids:
        edit(owner, row_id, f"edited {row_id}")
    assert command("backfill.py", *MUSIC, "--json").report["embedded"] == 3


def test_the_text_report_says_what_was_done(owner: Connection, command: Command) -> None:
    add(owner, *texts(5))
    result = command("backfill.py", *MUSIC)
    assert result.code == 0
    assert result.stdout.startswith("music_knowledge (")
    assert "5 embedded, 0 failed" in result.stdout


def test_without_a_named_collection_every_collection_is_embedded(owner: Connection, command: Command) -> None:
    owner.execute("create table notes (id int primary key, body text)")
    owner.execute("create function embedding.document_text(n notes) returns text language sql immutable return n.body")
    owner.execute("select track_embeddings('notes')")
    owner.execute("insert into notes values (1, 'a note')")
    add(owner, "a row")
    result = command("backfill.py", "--json")
    assert result.code == 0
    report = result.report
    assert set(report) == {*FIELDS, "collections"}
    assert (report["collection"], report["embedded"]) == (None, 2)
    done = {one["collection"]: one["embedded"] for one in report["collections"]}
    assert (done["notes"], done["music_knowledge"]) == (1, 1)
    assert embedded(owner) == 1

    dry = command("backfill.py", "--json", "--dry-run").report
    assert set(dry) == {*ESTIMATE_FIELDS, "collections"}
    assert (dry["collection"], dry["rows"], dry["tokens"]) == (None, 0, 0)
    assert all(set(one) == set(ESTIMATE_FIELDS) for one in dry["collections"])
    assert len(dry["collections"]) == len(report["collections"])


def test_a_broken_table_is_named_with_the_fix_and_the_others_are_embedded(owner: Connection, command: Command) -> None:
    owner.execute("create table albums (id int primary key, body text)")
    owner.execute("create function embedding.document_text(n albums) returns text language sql immutable return n.body")
    owner.execute("select track_embeddings('albums')")
    owner.execute("insert into albums values (1, 'an album')")
    owner.execute("alter table albums drop column body cascade")
    add(owner, "a row")
    result = command("backfill.py", "--json")
    assert result.code == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("albums cannot be read: ")
    assert "select track_embeddings('public.albums')" in line
    assert "select untrack_embeddings('albums')" in line
    assert "migrate.py" not in line
    assert embedded(owner) == 1
    (albums,) = [one for one in result.report["collections"] if one["collection"] == "albums"]
    assert set(albums) == FIELDS
    assert albums["processed"] == 0

    named = command("backfill.py", "--collection", "albums", "--json")
    assert (named.code, named.report["processed"]) == (1, 0)
    dry = command("backfill.py", "--dry-run")
    assert dry.code == 1
    assert "albums cannot be read" in dry.stderr
    assert "music_knowledge" in dry.stdout


def test_a_row_whose_text_raises_fails_and_is_listed(owner: Connection, command: Command) -> None:
    owner.execute("create table albums (id int primary key, body text, tracks int)")
    owner.execute(
        "create function embedding.document_text(n albums) returns text language sql stable"
        " return n.body || current_setting('tonnetz.minutes', true)::int / n.tracks"
    )
    owner.execute("select track_embeddings('albums')")
    owner.execute("alter table albums disable trigger user")
    owner.execute("insert into albums select n, 'album ', n - 3 from generate_series(1, 9) n")
    owner.execute("alter table albums enable trigger user")
    owner.execute(
        "do $$ begin execute format('alter database %I set tonnetz.minutes = 60', current_database()); end $$"
    )
    result = command("backfill.py", "--collection", "albums", "--reconcile", "--json")
    assert result.code == 1
    assert (result.report["embedded"], result.report["failed"]) == (8, 0)
    assert "1 rows failed" in result.stderr
    assert "  3: embedding.document_text: division by zero (SQLSTATE 22012)" in result.stderr


def test_the_run_stops_at_the_limit(owner: Connection, command: Command) -> None:
    add(owner, *texts(30))
    result = command("backfill.py", *MUSIC, "--json", "--limit", "12", "--batch-size", "5", "--workers", "2")
    assert (result.code, result.report["embedded"]) == (0, 12)
    assert (embedded(owner), held(owner)) == (12, 0)


def test_a_dry_run_counts_and_changes_nothing(owner: Connection, command: Command) -> None:
    add(owner, *texts(10))
    before = owner.execute("select * from embedding.collections, embedding.queue order by row_id").fetchall()
    result = command("backfill.py", *MUSIC, "--dry-run", "--json")
    assert result.code == 0
    assert set(result.report) == {*ESTIMATE_FIELDS, "collections"}
    assert (result.report["rows"], result.report["rows_estimated"]) == (10, False)
    assert result.report["tokens"] > 10
    assert "10 rows" in command("backfill.py", *MUSIC, "--dry-run").stdout
    assert owner.execute("select * from embedding.collections, embedding.queue order by row_id").fetchall() == before
    assert owner.execute("select count(*) from embedding.models").fetchone() == (0,)


def test_verify_lists_stale_rows(owner: Connection, command: Command) -> None:
    ids = add(owner, *texts(3))
    command("backfill.py", *MUSIC)
    owner.execute("alter table music_knowledge disable trigger user")
    edit(owner, ids[0], "edited with triggers off")
    owner.execute("alter table music_knowledge enable trigger user")
    result = command("backfill.py", *MUSIC, "--json", "--verify")
    assert result.code == 1
    assert "1 rows have a wrong vector" in result.stderr
    assert ids[0] in result.stderr
    # --repair compares the rows even without --verify.
    repaired = command("backfill.py", *MUSIC, "--repair")
    assert repaired.code == 1
    assert "1 rows repaired" in repaired.stderr
    assert command("backfill.py", *MUSIC, "--json", "--verify").report["embedded"] == 1


def test_help_says_what_the_exit_codes_and_the_json_mean(command: Command) -> None:
    result = command("backfill.py", "--help")
    assert result.code == 0
    for word in ("130 interrupted", "`collections`", "--json"):
        assert word in result.stdout


@pytest.mark.parametrize("flags", [(), ("--reconcile",)])
def test_rows_that_the_triggers_missed_are_embedded(owner: Connection, command: Command, flags: Sequence[str]) -> None:
    owner.execute("alter table music_knowledge disable trigger user")
    add(owner, *texts(3))
    owner.execute("alter table music_knowledge enable trigger user")
    assert command("backfill.py", *MUSIC, "--json", *flags).report["embedded"] == 3


def test_failed_rows_make_exit_1_and_are_listed_until_they_are_retried(owner: Connection, command: Command) -> None:
    (row_id, *_) = add(owner, *texts(3))
    owner.execute(
        "update embedding.queue set failed_at = now(), error = 'refused for a reason' where row_id = %s", [row_id]
    )
    result = command("backfill.py", *MUSIC, "--json")
    assert result.code == 1
    assert result.report["embedded"] == 2
    assert "1 rows failed" in result.stderr
    assert f"{row_id}: refused for a reason" in result.stderr
    retried = command("backfill.py", *MUSIC, "--json", "--retry-failed")
    assert (retried.code, retried.report["embedded"]) == (0, 1)


@pytest.fixture
def slow(
    owner: Connection, database_url: SecretStr, command_with: Callable[..., Command]
) -> Callable[[], tuple[Command, Connection]]:
    """A function that starts a slow run over 300 rows: each save waits a little."""

    def make() -> tuple[Command, Connection]:
        add(owner, *texts(300))
        owner.execute(
            "create function slow_down() returns trigger language plpgsql as $$ begin perform pg_sleep(0.1); return null; end $$"
        )
        owner.execute(
            "create trigger slow_down after update on music_knowledge for each statement execute function slow_down()"
        )
        return command_with(DATABASE_URL=database_url.get_secret_value()), owner

    return make


SMALL_STEPS = (*MUSIC, "--batch-size", "5", "--workers", "1", "--json")


# Interrupted


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_finishes_running_requests_and_exits_130(
    slow: Callable[[], tuple[Command, Connection]], name: str
) -> None:
    command, owner = slow()
    process = command.start("backfill.py", *SMALL_STEPS)
    wait_for(lambda: embedded(owner) >= 20, process)
    process.send_signal(signal.Signals[name])
    result = command.finish(process)
    assert result.code == 130, result.stderr
    assert "Traceback" not in result.stderr
    done = embedded(owner)
    assert 20 <= done < 300
    assert (result.report["embedded"], result.report["processed"]) == (done, done)
    assert held(owner) == 0
    assert len(queued(owner)) == 300 - done
    assert owner.execute("select status from embedding.runs").fetchall() == [("interrupted",)]
    assert f"{300 - done:,} rows are left" in result.stderr


def test_a_second_interrupt_ends_the_program_although_a_save_still_waits(
    slow: Callable[[], tuple[Command, Connection]], connect: Callable[..., Connection]
) -> None:
    command, owner = slow()
    process = command.start("backfill.py", *SMALL_STEPS)
    wait_for(lambda: embedded(owner) >= 5, process)
    blocker = connect(autocommit=False)
    blocker.execute("lock table music_knowledge in exclusive mode")
    waiting = "select count(*) from pg_locks where not granted"
    wait_for(lambda: owner.execute(waiting).fetchone() != (0,), process)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "stopping" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    assert command.finish(process, timeout=20).code == 130


def test_after_a_kill_a_second_run_completes(slow: Callable[[], tuple[Command, Connection]]) -> None:
    command, owner = slow()
    process = command.start("backfill.py", *SMALL_STEPS)
    wait_for(lambda: embedded(owner) >= 20, process)
    process.kill()
    process.communicate()
    time.sleep(0.3)  # a save that the server was executing ends by itself
    done, leased = embedded(owner), held(owner)
    assert done + len(queued(owner)) == 300, "nothing is lost"
    # End the lease here instead of waiting a minute.
    owner.execute("update embedding.queue set available_at = now() where leased_at is not null")
    owner.execute("drop trigger slow_down on music_knowledge")
    result = command("backfill.py", *MUSIC, "--json", "--verify")
    assert result.code == 0, result.stderr
    assert result.report["embedded"] == 300 - done
    assert leased <= 5 * (2 * 1 + 2), "at most what the killed run held is embedded again"
    assert embedded(owner) == 300


def test_two_runs_at_once_embed_each_row_once(slow: Callable[[], tuple[Command, Connection]]) -> None:
    command, owner = slow()
    processes = [
        command.start("backfill.py", *MUSIC, "--batch-size", "10", "--workers", "2", "--json") for _ in range(2)
    ]
    results = [command.finish(process) for process in processes]
    assert [result.code for result in results] == [0, 0], results
    assert sum(result.report["embedded"] for result in results) == 300
    assert embedded(owner) == 300
