"""The database fails while a run is under way: the run waits and goes on, or stops with one clear line."""

import datetime
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from tests.drills.harness import (
    ROOT,
    Connection,
    Finding,
    FunctionsServer,
    Gate,
    Length,
    Program,
    Site,
    Skipped,
    audit,
    open_site,
    sent_again,
    wait_until,
)
from tests.gateway import Gateway
from tests.postgres_cluster import Cluster
from tests.postgrest_server import BINARY, INSTALL, Postgrest, sign_token

ROWS = {Length.SHORT: 200, Length.FULL: 400, Length.LONG: 400}
# The longest a run waits for its database before it gives up, with what it needs to say so.
PATIENCE = 200
# A server that is back is noticed within so many seconds.
SOON = 20
STEPS = ("--batch-size", "5", "--workers", "2", "--json")


@dataclass
class Run:
    """A backfill under way, its provider, and a connection of the owner made before anything failed."""

    site: Site
    program: Program
    server: Gate
    rows: int

    def embedded(self) -> int:
        return int(self.site.ask("select count(embedding) from music_knowledge"))


@contextmanager
def _under_way(site: Site, rows: int, **environment: str) -> Iterator[Run]:
    """Rows, and a run that has saved some of them."""
    site.add(rows)
    with Gate(latency=0.2) as server:
        run = Run(site, site.backfill(server, *STEPS, **environment), server, rows)
        if not wait_until(lambda: run.embedded() >= 20, 60, program=run.program):
            raise RuntimeError(f"the run did not get under way: {run.program.stderr}")
        yield run


def _goes_on(cluster: Cluster, length: Length, done: str, strike: Callable[[Finding, Run], str]) -> Finding:
    """Strike a run; it has to go on by itself and end as if nothing had been.

    `strike` expects of the server's own word that the fault took place, and says what it was.
    """
    finding = Finding(done)
    with open_site(cluster) as site, _under_way(site, ROWS[length]) as run:
        told = strike(finding, run)
        _ends_well(finding, run, told)
    return finding


class _Log:
    """What the server writes down from now on."""

    def __init__(self, cluster: Cluster) -> None:
        self._path = cluster.log
        self._seen = self._path.stat().st_size

    def count(self, words: str) -> int:
        with self._path.open("rb") as log:
            log.seek(self._seen)
            return log.read().count(words.encode())


def _ends_well(finding: Finding, run: Run, told: str) -> None:
    before = run.program.running
    began = time.monotonic()
    code = run.program.finish(PATIENCE)
    finding.expect(before, "the run had ended before it was over")
    finding.expect(code == 0, f"the run exits {code}: {run.program.stderr.strip()[-300:]}")
    finding.expect("Traceback" not in run.program.stderr, "a traceback is on stderr")
    finding.expect("psycopg" not in run.program.stderr, "a vendor's words are on stderr")
    state = audit(run.site, run.rows)
    state.judge(finding)
    again = sent_again(run.server)
    finding.expect(again == 0, f"{again} texts were paid twice")
    finding.found = (
        f"{told}; went on by itself, exit {code} after {time.monotonic() - began:.0f} s more; "
        f"{state.embedded} of {state.rows} embedded, none foreign, {again} paid twice"
    )


# The server goes away


def restart_the_server(cluster: Cluster, length: Length) -> Finding:
    """Immediate shutdown and start, twice, under a run."""

    def strike(finding: Finding, run: Run) -> str:
        log, starts = _Log(cluster), {_started(cluster)}
        for _ in range(2):
            _until_saving(run)
            cluster.restart("immediate")
            starts.add(_started(cluster))
        finding.expect(len(starts) == 3, f"the server was started {len(starts) - 1} times, not twice")
        shutdowns = log.count("received immediate shutdown request")
        finding.expect(shutdowns == 2, f"the server's log has {shutdowns} immediate shutdowns, not 2")
        return f"{shutdowns} immediate shutdowns by the server's log"

    return _goes_on(cluster, length, "pg_ctl restart -m immediate, twice in mid-run", strike)


def stop_the_server_for_a_while(cluster: Cluster, length: Length) -> Finding:
    """Down for some seconds, longer than a lease."""
    # Longer ones fall between two looks of a client that doubles its pauses.
    seconds = {Length.SHORT: 3, Length.FULL: 35, Length.LONG: 70}[length]

    def strike(finding: Finding, run: Run) -> str:
        with _stopped(finding, cluster):
            time.sleep(seconds)
        began, before = time.monotonic(), run.embedded()
        wait_until(lambda: run.embedded() > before, SOON + 10, program=run.program)
        taken = time.monotonic() - began
        finding.expect(taken < SOON, f"the run noticed the server after more than {SOON} s")
        return f"saved again {taken:.0f} s after the start"

    return _goes_on(cluster, length, f"server down for {seconds} s in mid-run", strike)


def stop_the_server_for_good(cluster: Cluster, length: Length) -> Finding:
    """A run gives up in bounded time and says so in one line; the next one completes."""
    finding = Finding("server stopped and not started again")
    with open_site(cluster) as site, _under_way(site, ROWS[length]) as run:
        began = time.monotonic()
        with _stopped(finding, cluster):
            code = run.program.finish(PATIENCE)
        seconds = time.monotonic() - began
        _stopped_with_one_line(finding, run.program, code, 1, "connect")
        next_code = _complete(finding, site, run)
    finding.found = f"gave up after {seconds:.0f} s, exit {code}, one line; the next run exits {next_code}"
    return finding


def cut_the_connections(cluster: Cluster, length: Length) -> Finding:
    """Every connection of the run is ended from outside, again and again."""
    cuts = {Length.SHORT: 3, Length.FULL: 10, Length.LONG: 30}[length]

    def strike(finding: Finding, run: Run) -> str:
        log, struck = _Log(cluster), 0
        with run.site.connect() as owner:
            for _ in range(cuts):
                _until_saving(run)
                struck += _terminate(owner) > 0
        finding.expect(struck == cuts, f"{cuts - struck} of {cuts} cuts met no connection")
        ended = log.count("terminating connection due to administrator command")
        finding.expect(ended >= cuts, f"the server's log has {ended} connections ended by {cuts} cuts")
        return f"{ended} connections ended by the server's log"

    return _goes_on(cluster, length, f"pg_terminate_backend on all of the run's connections, {cuts} times", strike)


@contextmanager
def _stopped(finding: Finding, cluster: Cluster) -> Iterator[None]:
    before = _started(cluster)
    cluster.stop("immediate")
    try:
        finding.expect(not _answers(cluster), "the server still answers: nothing was drilled")
        yield
        finding.expect(not _answers(cluster), "the server was back before its time: nothing was drilled")
    finally:
        cluster.restart("immediate")
    finding.expect(_started(cluster) > before, "the server was not started anew: nothing was drilled")


def _started(cluster: Cluster) -> datetime.datetime:
    """When the server that answers now was started."""
    with cluster.admin() as admin:
        (when,) = admin.execute("select pg_postmaster_start_time()").fetchone() or (None,)
    assert isinstance(when, datetime.datetime)
    return when


def _answers(cluster: Cluster) -> bool:
    try:
        with cluster.admin():
            return True
    except psycopg.OperationalError:
        return False


def _terminate(owner: Connection) -> int:
    """End the run's connections; how many are gone."""
    pids = [
        row[0]
        for row in owner.execute(
            "select pid from pg_stat_activity where datname = current_database() and application_name = 'tonnetz'"
        ).fetchall()
    ]
    owner.execute("select pg_terminate_backend(pid) from unnest(%s::int[]) pid", [pids])

    def left() -> int:
        found = owner.execute("select count(*) from pg_stat_activity where pid = any (%s)", [pids]).fetchone()
        return int(found[0]) if found else 0

    wait_until(lambda: left() == 0, 5)
    return len(pids) - left()


def _until_saving(run: Run) -> None:
    """Until some more rows are saved: the run works."""
    before = run.embedded()
    wait_until(lambda: run.embedded() > before, 30, program=run.program)


# The server refuses


def read_only(cluster: Cluster, length: Length) -> Finding:
    """default_transaction_read_only on the whole server, as some hosts set it where the disk is nearly full."""

    def strike(finding: Finding, run: Run) -> str:
        log = _Log(cluster)
        with cluster.admin() as admin:
            admin.execute("set default_transaction_read_only = off")
            admin.execute("alter system set default_transaction_read_only = on")
            try:
                admin.execute("select pg_reload_conf()")
                time.sleep(2)
                shown = run.site.ask("show default_transaction_read_only")
                finding.expect(shown == "on", f"default_transaction_read_only is {shown}: nothing was drilled")
                finding.expect(_stands_still(run), "rows were saved while the server was read-only")
            finally:
                admin.execute("alter system reset default_transaction_read_only")
                admin.execute("select pg_reload_conf()")
        refused = log.count("in a read-only transaction")
        finding.expect(refused, "the server refused no statement: nothing was drilled")
        return f"{refused} statements refused by the server's log, nothing saved meanwhile"

    return _goes_on(cluster, length, "default_transaction_read_only = on for 3 s", strike)


def _stands_still(run: Run) -> bool:
    before = run.embedded()
    time.sleep(1)
    return run.embedded() == before


def fill_the_disk(cluster: Cluster, length: Length) -> Finding:
    """A full disk under the table: a small file system of its own where the user may mount one, else its SQLSTATE."""
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
    finding = Finding("the table on a file system of 6 MB that is filled to the last byte for 3 s")
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
            with _under_way(site, ROWS[length]) as run:
                log = _Log(cluster)
                filler = folder / "filler"
                _fill(filler)
                time.sleep(3)
                filler.unlink()
                _ends_well(finding, run, _met_a_full_disk(finding, log))
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


def _met_a_full_disk(finding: Finding, log: _Log) -> str:
    met = log.count("No space left on device")
    finding.expect(met, "the server never met the full disk: nothing was drilled")
    return f"the server's log says no space left on device {met} times"


def _refuse_saves(cluster: Cluster, length: Length) -> Finding:
    """What stands in for a full disk where no file system may be mounted."""

    def strike(finding: Finding, run: Run) -> str:
        log = _Log(cluster)
        with run.site.connect() as owner:
            owner.execute(
                "create function disk_full() returns trigger language plpgsql as $$ begin"
                " raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$"
            )
            owner.execute("create trigger disk_full before update on music_knowledge execute function disk_full()")
            time.sleep(2)
            owner.execute("drop trigger disk_full on music_knowledge")
        return _met_a_full_disk(finding, log)

    return _goes_on(cluster, length, "a save is refused with SQLSTATE 53100 (disk full) for 2 s", strike)


def time_out_a_statement(cluster: Cluster, length: Length) -> Finding:
    """A save waits for a lock beyond the statement timeout of its role, again and again."""
    finding = Finding("rows of a save locked for 2 s, statement_timeout 300 ms")
    with open_site(cluster) as site, _hasty_user(site) as url, _under_way(site, ROWS[length], DATABASE_URL=url) as run:
        log = _Log(cluster)
        with psycopg.connect(site.url.get_secret_value()) as blocker:
            _lock_rows_of_a_save(run, blocker)
            time.sleep(2)
        cancelled = log.count("canceling statement due to statement timeout")
        finding.expect(cancelled, "the server cancelled no statement: nothing was drilled")
        _ends_well(finding, run, f"{cancelled} statements cancelled by the server's log")
    return finding


@contextmanager
def _hasty_user(site: Site) -> Iterator[str]:
    """The URL of a user whose statements are cancelled after 300 ms."""
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
    """Another transaction and a save wait for each other; the server ends the save."""

    def strike(finding: Finding, run: Run) -> str:
        before = _deadlocks(run.site)
        for _ in range(2 if length is Length.SHORT else 5):
            with psycopg.connect(run.site.url.get_secret_value()) as other:
                # The save, which waits first, is the one that finds the circle.
                other.execute("set deadlock_timeout = '20s'")
                ids = _lock_rows_of_a_save(run, other, last_only=True)
                other.execute("update music_knowledge set category = 'drill' where id = %s", [ids[0]])
                other.rollback()
        wait_until(lambda: _deadlocks(run.site) > before, 5)
        count = _deadlocks(run.site) - before
        finding.expect(count, "no deadlock came about: nothing was drilled")
        return f"{count} deadlocks by the server's count"

    return _goes_on(cluster, length, "rows of a save locked from the other end", strike)


def _deadlocks(site: Site) -> int:
    return int(site.ask("select deadlocks from pg_stat_database where datname = current_database()"))


def _lock_rows_of_a_save(run: Run, connection: Connection, *, last_only: bool = False) -> list[object]:
    """Lock rows that the provider is embedding now, and wait until their save meets the lock; ids in key order."""
    run.server.pause()
    if not wait_until(lambda: run.server.waiting, 30, program=run.program):
        raise RuntimeError(f"the run asks for nothing any more: {run.program.stderr.strip()[-300:]}")
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


# PostgREST


def kill_postgrest(cluster: Cluster, length: Length) -> Finding:
    """PostgREST dies in mid-run and comes back seconds later."""
    if not BINARY.exists():
        raise Skipped(INSTALL)
    finding = Finding("kill -9 of PostgREST in mid-run, back after 3 s")
    secret = secrets.token_urlsafe(48)
    key = sign_token(secret, "service_role")
    with open_site(cluster) as site:
        rest = Postgrest(BINARY, cluster.url(site.url, user="authenticator"), secret)
        with Gateway(rest.port, keys={key}) as gateway:
            environment = {
                "DATABASE_URL": "<unset>",
                "SUPABASE_URL": gateway.url,
                "SUPABASE_SERVICE_ROLE_KEY": key,
            }
            with rest, _under_way(site, ROWS[length], **environment) as run:
                finding.expect(gateway.unreachable == 0, "PostgREST was away before it was killed")
                rest.kill()
                time.sleep(3)
                refused = gateway.unreachable
                finding.expect(refused, "the gateway never answered 502: nothing was drilled")
                with rest:
                    _ends_well(finding, run, f"the gateway answered 502 to {refused} calls meanwhile")
            finding.expect(key not in run.program.stderr, "the key is on stderr")
    return finding


# The functions


def restart_under_the_functions(cluster: Cluster, length: Length) -> Finding:
    """A server of the functions sees its database go and come back."""
    seconds = 2 if length is Length.SHORT else 10
    finding = Finding(f"server down for {seconds} s under python -m functions.local")
    with open_site(cluster, 50) as site, Gate() as provider:
        first = site.backfill(provider, "--json").finish(60)
        finding.expect(first == 0, f"the backfill exits {first}")
        with FunctionsServer(site, provider) as functions:
            with _stopped(finding, cluster):
                down = functions.get("/health")
                searched = functions.search("row in key")
                time.sleep(seconds)
            finding.expect(down.status_code == 503, f"/health says {down.status_code} while the database is gone")
            finding.expect(searched.status_code == 503, f"a search is answered {searched.status_code}")
            finding.expect('"error"' in searched.text, f"a search is answered {searched.text[:100]}")
            began = time.monotonic()
            back = wait_until(lambda: functions.search("row in key").status_code == 200, 60)
            finding.expect(back, "search does not come back")
            finding.expect(functions.get("/health").status_code == 200, "/health does not come back")
            seconds_back = time.monotonic() - began
    finding.found = (
        f"/health {down.status_code} and search {searched.status_code} meanwhile; "
        f"both 200 again {seconds_back:.1f} s after the start"
    )
    return finding


# The embedded server


def kill_beside_the_embedded_server(cluster: Cluster, length: Length) -> Finding:
    """kill -9 of the process that started the embedded server; the next one joins it and, as the last, stops it."""
    del length
    finding = Finding("kill -9 of the run that had started the embedded server; then another run")
    with open_site(cluster) as site, ExitStack() as within, Gate(holds=True) as server:
        embedded = {"DATABASE_URL": "<unset>"}
        pid_file = site.folder / "data/postgres/postmaster.pid"
        within.callback(_end_embedded, pid_file)
        migrated = site.start(
            str(ROOT / "scripts/migrate.py"), "--seed", environment=site.environment(server, **embedded)
        ).finish(60)
        finding.expect(migrated == 0, f"migrate.py exits {migrated}")
        finding.expect(not pid_file.exists(), "migrate.py leaves the server running")
        killed = site.backfill(server, "--json", **embedded)
        finding.expect(wait_until(server.was_asked.is_set, 60, program=killed), f"it does not begin: {killed.stderr}")
        killed.kill()
        finding.expect(pid_file.exists(), "the server died with the run: nothing was drilled")
        server.release()
        run = site.backfill(server, "--json", "--verify", **embedded)
        code = run.finish(120)
        finding.expect(code == 0, f"the next run exits {code}: {run.stderr[-300:]}")
        stopped = wait_until(lambda: not pid_file.exists(), 10)
        finding.expect(stopped, "the server is still running after the last process that used it")
    finding.found = f"the next run exits {code} and stops the server with it"
    return finding


def _end_embedded(pid_file: Path) -> None:
    """Take down the server that a drill which failed, or was interrupted, has left behind."""
    with suppress(OSError, IndexError, ValueError):
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)
        wait_until(lambda: not pid_file.exists(), 20)


def _stopped_with_one_line(finding: Finding, program: Program, code: int, expected: int, *says: str) -> None:
    finding.expect(code == expected, f"the run exits {code}, not {expected}: {program.stderr.strip()[-300:]}")
    finding.expect(len(program.errors) == 1, f"it says {program.errors}, which is not one line")
    finding.expect("Traceback" not in program.stderr, "a traceback is on stderr")
    finding.expect("(0 rows are left)" not in program.stderr, f"it says that nothing is left: {program.errors}")
    for part in says:
        finding.expect(any(part in line for line in program.errors), f"its line does not name {part}: {program.errors}")


def _complete(finding: Finding, site: Site, run: Run) -> int:
    """What a stopped run left is done by the next one."""
    code = site.backfill(run.server, *STEPS, "--verify").finish(PATIENCE)
    finding.expect(code == 0, f"the next run exits {code}")
    audit(site, run.rows).judge(finding)
    return code
