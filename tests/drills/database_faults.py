"""Drills in which the database fails during a run: the run waits and continues, or stops with an error of one line."""

import datetime
import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg

from tests.drills.audit import audit
from tests.drills.database_runs import PATIENCE, ROWS, STEPS, Log, Run, ends_well, goes_on, under_way, until_saving
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
    open_site,
    wait_until,
)
from tests.gateway import Gateway
from tests.postgres_cluster import Cluster
from tests.postgrest_server import BINARY, INSTALL, Postgrest, sign_token

# The seconds within which a run must notice that the server was restarted.
SOON = 20


# The server stops


def restart_the_server(cluster: Cluster, length: Length) -> Finding:
    """Stop the server immediately and start it, twice, during a run."""

    def strike(finding: Finding, run: Run) -> str:
        log, starts = Log(cluster), {_started(cluster)}
        for _ in range(2):
            until_saving(run)
            cluster.restart("immediate")
            starts.add(_started(cluster))
        finding.expect(len(starts) == 3, f"the server was started {len(starts) - 1} times, not twice")
        shutdowns = log.count("received immediate shutdown request")
        finding.expect(shutdowns == 2, f"the server's log has {shutdowns} immediate shutdowns, not 2")
        return f"the server's log shows {shutdowns} immediate shutdowns"

    return goes_on(cluster, length, "PostgreSQL was restarted twice during a run (pg_ctl restart -m immediate)", strike)


def stop_the_server_for_a_while(cluster: Cluster, length: Length) -> Finding:
    """Stop the server for some seconds, longer than a lease."""
    # A client doubles its pauses, so a shorter outage could lie between two of its tries.
    seconds = {Length.SHORT: 3, Length.FULL: 35, Length.LONG: 70}[length]

    def strike(finding: Finding, run: Run) -> str:
        with _stopped(finding, cluster):
            time.sleep(seconds)
        began, before = time.monotonic(), run.embedded()
        wait_until(lambda: run.embedded() > before, SOON + 10, program=run.program)
        taken = time.monotonic() - began
        finding.expect(taken < SOON, f"the run noticed the server after more than {SOON} s")
        return f"the run saved rows again {taken:.0f} s after the start"

    return goes_on(cluster, length, f"PostgreSQL was down for {seconds} s during a run", strike)


def stop_the_server_for_good(cluster: Cluster, length: Length) -> Finding:
    """A run gives up within a limited time with an error of one line; the next run completes."""
    finding = Finding("PostgreSQL was stopped during a run and not started again before the run ended")
    with open_site(cluster) as site, under_way(site, ROWS[length]) as run:
        began = time.monotonic()
        with _stopped(finding, cluster):
            code = run.program.finish(PATIENCE)
        seconds = time.monotonic() - began
        _stopped_with_one_line(finding, run.program, code, 1, "connect")
        next_code = _complete(finding, site, run)
    finding.found = (
        f"the run gave up after {seconds:.0f} s, with exit code {code} and one line; after a restart of the server the"
        f" next run ended with exit code {next_code}"
    )
    return finding


def cut_the_connections(cluster: Cluster, length: Length) -> Finding:
    """End every connection of the run repeatedly."""
    cuts = {Length.SHORT: 3, Length.FULL: 10, Length.LONG: 30}[length]

    def strike(finding: Finding, run: Run) -> str:
        log, struck = Log(cluster), 0
        with run.site.connect() as owner:
            for _ in range(cuts):
                until_saving(run)
                struck += _terminate(owner) > 0
        finding.expect(struck == cuts, f"{cuts - struck} of {cuts} cuts met no connection")
        ended = log.count("terminating connection due to administrator command")
        finding.expect(ended >= cuts, f"the server's log has {ended} connections ended by {cuts} cuts")
        return f"the server's log shows {ended} ended connections"

    return goes_on(cluster, length, f"pg_terminate_backend ended all connections of a run, {cuts} times", strike)


@contextmanager
def _stopped(finding: Finding, cluster: Cluster) -> Iterator[None]:
    before = _started(cluster)
    cluster.stop("immediate")
    try:
        finding.expect(not _answers(cluster), "the server still answers, so the drill tested nothing")
        yield
        finding.expect(not _answers(cluster), "the server was back before its time, so the drill tested nothing")
    finally:
        cluster.restart("immediate")
    finding.expect(_started(cluster) > before, "the server was not restarted, so the drill tested nothing")


def _started(cluster: Cluster) -> datetime.datetime:
    """The start time of the current server."""
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
    """End the run's connections; returns how many."""
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


# PostgREST


def kill_postgrest(cluster: Cluster, length: Length) -> Finding:
    """PostgREST crashes during a run and starts again seconds later."""
    if not BINARY.exists():
        raise Skipped(INSTALL)
    finding = Finding("PostgREST was killed during a run (kill -9) and started again after 3 s")
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
            with rest, under_way(site, ROWS[length], **environment) as run:
                finding.expect(gateway.unreachable == 0, "PostgREST was away before it was killed")
                rest.kill()
                time.sleep(3)
                refused = gateway.unreachable
                finding.expect(refused, "the gateway never answered 502, so the drill tested nothing")
                with rest:
                    ends_well(finding, run, f"the gateway answered {refused} calls with 502 while PostgREST was down")
            finding.expect(key not in run.program.stderr, "the key is on stderr")
    return finding


# The functions


def restart_under_the_functions(cluster: Cluster, length: Length) -> Finding:
    """The HTTP server loses its database and gets it back."""
    seconds = 2 if length is Length.SHORT else 10
    finding = Finding(f"PostgreSQL was down for {seconds} s while the HTTP server ran (python -m functions.local)")
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
        f"/health answered {down.status_code} and search {searched.status_code}; "
        f"both answered 200 again {seconds_back:.1f} s after the start of PostgreSQL"
    )
    return finding


# The embedded server


def kill_beside_the_embedded_server(cluster: Cluster, length: Length) -> Finding:
    """Kill the process that started the embedded server; the next one uses the server and, as the last one, stops it."""
    del length
    finding = Finding("a run that had started the embedded server was killed (kill -9); then another run was started")
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
        finding.expect(
            wait_until(server.was_asked.is_set, 60, program=killed), f"the first run sends no request: {killed.stderr}"
        )
        killed.kill()
        finding.expect(pid_file.exists(), "the server died with the run, so the drill tested nothing")
        server.release()
        run = site.backfill(server, "--json", "--verify", **embedded)
        code = run.finish(120)
        finding.expect(code == 0, f"the next run exits {code}: {run.stderr[-300:]}")
        stopped = wait_until(lambda: not pid_file.exists(), 10)
        finding.expect(stopped, "the server is still running after the last process that used it")
    finding.found = (
        f"the next run ended with exit code {code} and, as the last program that used the server, stopped it"
    )
    return finding


def _end_embedded(pid_file: Path) -> None:
    """Stop a server that a failed or interrupted drill has left running."""
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
    """The next run embeds the rows that a stopped run left."""
    code = site.backfill(run.server, *STEPS, "--verify").finish(PATIENCE)
    finding.expect(code == 0, f"the next run exits {code}")
    audit(site, run.rows).judge(finding)
    return code
