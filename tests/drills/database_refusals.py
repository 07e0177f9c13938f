"""Drills in which the database refuses statements during a run: the run waits and continues, or stops with one line."""

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from tests.drills.database_runs import ROWS, Log, Run, ends_well, goes_on, under_way
from tests.drills.harness import Connection, Finding, Length, Site, open_site, wait_until
from tests.postgres_cluster import Cluster


def read_only(cluster: Cluster, length: Length) -> Finding:
    """Set default_transaction_read_only on the whole server, as some hosts do when the disk is nearly full."""

    def strike(finding: Finding, run: Run) -> str:
        log = Log(cluster)
        with cluster.admin() as admin:
            admin.execute("set default_transaction_read_only = off")
            admin.execute("alter system set default_transaction_read_only = on")
            try:
                admin.execute("select pg_reload_conf()")
                time.sleep(2)
                shown = run.site.ask("show default_transaction_read_only")
                finding.expect(shown == "on", f"default_transaction_read_only is {shown}, so the drill tested nothing")
                finding.expect(_stands_still(run), "rows were saved while the server was read-only")
            finally:
                admin.execute("alter system reset default_transaction_read_only")
                admin.execute("select pg_reload_conf()")
        refused = log.count("in a read-only transaction")
        finding.expect(refused, "the server refused no statement, so the drill tested nothing")
        return f"the server's log shows {refused} refused statements; no row was saved while it was read-only"

    return goes_on(cluster, length, "the server was read-only for 3 s (default_transaction_read_only = on)", strike)


def _stands_still(run: Run) -> bool:
    before = run.embedded()
    time.sleep(1)
    return run.embedded() == before


def fill_the_disk(cluster: Cluster, length: Length) -> Finding:
    """Fill the disk of the table: a small file system if the user may mount one; otherwise a trigger raises the SQLSTATE."""
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount"):
        folder = Path(tempfile.mkdtemp(prefix="tonnetz-disk-"))
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=6m,mode=0777", "tmpfs", str(folder)], check=False, capture_output=True
        )
        try:
            if mounted.returncode == 0:
                return _fill_a_file_system(cluster, length, folder)
        finally:
            if mounted.returncode == 0:
                subprocess.run(["umount", "-l", str(folder)], check=True)
            folder.rmdir()
    return _refuse_saves(cluster, length)


def _fill_a_file_system(cluster: Cluster, length: Length, folder: Path) -> Finding:
    finding = Finding("the file system of the table, of 6 MB, was full for 3 s")
    space = sql.Identifier(f"drill_{secrets.token_hex(4)}")
    place = folder / "space"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    subprocess.run(["chown", str(cluster.system_user or "root"), str(place)], check=True)
    with cluster.admin() as admin:
        admin.execute(sql.SQL("create tablespace {} location {}").format(space, sql.Literal(str(place))))
    try:
        with open_site(cluster) as site:
            with site.connect() as owner:
                owner.execute(sql.SQL("alter table music_knowledge set tablespace {}").format(space))
            with under_way(site, ROWS[length]) as run:
                log = Log(cluster)
                filler = folder / "filler"
                _fill(filler)
                time.sleep(3)
                filler.unlink()
                ends_well(finding, run, _met_a_full_disk(finding, log))
    finally:
        with cluster.admin() as admin:
            admin.execute(sql.SQL("drop tablespace {}").format(space))
    return finding


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def _met_a_full_disk(finding: Finding, log: Log) -> str:
    met = log.count("No space left on device")
    finding.expect(met, "the server never met the full disk, so the drill tested nothing")
    return f"the server's log shows 'no space left on device' {met} times"


def _refuse_saves(cluster: Cluster, length: Length) -> Finding:
    """Raises the error of a full disk, for users who may not mount a file system."""

    def strike(finding: Finding, run: Run) -> str:
        log = Log(cluster)
        with run.site.connect() as owner:
            owner.execute(
                "create function disk_full() returns trigger language plpgsql as $$ begin"
                " raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$"
            )
            owner.execute("create trigger disk_full before update on music_knowledge execute function disk_full()")
            time.sleep(2)
            owner.execute("drop trigger disk_full on music_knowledge")
        return _met_a_full_disk(finding, log)

    return goes_on(cluster, length, "a trigger refused each save for 2 s with SQLSTATE 53100 (disk full)", strike)


def time_out_a_statement(cluster: Cluster, length: Length) -> Finding:
    """Let saves wait for a lock longer than the statement timeout of their role."""
    finding = Finding(
        "another transaction locked the rows of a save for 2 s; the statement_timeout of the run was 300 ms"
    )
    with open_site(cluster) as site, _hasty_user(site) as url, under_way(site, ROWS[length], DATABASE_URL=url) as run:
        log = Log(cluster)
        with psycopg.connect(site.url.get_secret_value()) as blocker:
            _lock_rows_of_a_save(run, blocker)
            time.sleep(2)
        cancelled = log.count("canceling statement due to statement timeout")
        finding.expect(cancelled, "the server cancelled no statement, so the drill tested nothing")
        ends_well(finding, run, f"the server's log shows {cancelled} cancelled statements")
    return finding


@contextmanager
def _hasty_user(site: Site) -> Iterator[str]:
    """The URL of a user with a statement timeout of 300 ms."""
    role = f"drill_hasty_{secrets.token_hex(4)}"
    name = sql.Identifier(role)
    with site.cluster.admin() as admin:
        admin.execute(sql.SQL("create role {} login in role service_role").format(name))
        admin.execute(sql.SQL("alter role {} set statement_timeout = '300ms'").format(name))
        try:
            yield site.cluster.url(site.url, user=role)
        finally:
            site.close()
            admin.execute(sql.SQL("drop role {}").format(name))


def provoke_a_deadlock(cluster: Cluster, length: Length) -> Finding:
    """Let another transaction and a save wait for each other; the server cancels the save."""

    def strike(finding: Finding, run: Run) -> str:
        before = _deadlocks(run.site)
        for _ in range(2 if length is Length.SHORT else 5):
            with psycopg.connect(run.site.url.get_secret_value()) as other:
                # The save waits first and has the shorter deadlock_timeout, so it detects the deadlock and is cancelled.
                other.execute("set deadlock_timeout = '20s'")
                ids = _lock_rows_of_a_save(run, other, last_only=True)
                other.execute("update music_knowledge set category = 'drill' where id = %s", [ids[0]])
                other.rollback()
        wait_until(lambda: _deadlocks(run.site) > before, 5)
        count = _deadlocks(run.site) - before
        finding.expect(count, "no deadlock came about, so the drill tested nothing")
        return f"the server counted {count} deadlocks"

    return goes_on(cluster, length, "another transaction locked the rows of a save in the opposite order", strike)


def _deadlocks(site: Site) -> int:
    return int(site.ask("select deadlocks from pg_stat_database where datname = current_database()"))


def _lock_rows_of_a_save(run: Run, connection: Connection, *, last_only: bool = False) -> list[object]:
    """Lock rows that the provider is embedding, and wait until their save waits for the lock; returns ids in key order."""
    run.server.pause()
    if not wait_until(lambda: run.server.waiting, 30, program=run.program):
        raise RuntimeError(f"the run sends no more requests: {run.program.stderr.strip()[-300:]}")
    texts = run.server.waiting[0].inputs
    rows = connection.execute(
        "select id from music_knowledge m where embedding.document_text(m) = any (%s) order by id", [texts]
    ).fetchall()
    ids = [row[0] for row in rows]
    locked = ids[-1:] if last_only else ids
    connection.execute("select from music_knowledge where id = any (%s) for update", [locked])
    run.server.release()
    with run.site.connect() as owner:
        if not wait_until(lambda: _someone_waits(owner), 20, program=run.program):
            raise RuntimeError("no save came to wait for the lock")
    return ids


def _someone_waits(owner: Connection) -> bool:
    found = owner.execute(
        "select from pg_stat_activity where datname = current_database() and application_name = 'tonnetz'"
        " and wait_event_type = 'Lock'"
    ).fetchone()
    return found is not None
