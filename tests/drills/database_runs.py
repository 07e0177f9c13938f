"""Starts a backfill for a drill to disturb, and checks how it ends."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.drills.audit import audit
from tests.drills.harness import Finding, Gate, Length, Program, Site, open_site, sent_again, wait_until
from tests.postgres_cluster import Cluster

ROWS = {Length.SHORT: 200, Length.FULL: 400, Length.LONG: 400}
# The longest time that a run waits for its database before it stops and reports the error.
PATIENCE = 200
STEPS = ("--batch-size", "5", "--workers", "2", "--json")


@dataclass
class Run:
    """A running backfill, its provider, and a connection of the owner that was opened before the failure."""

    site: Site
    program: Program
    server: Gate
    rows: int

    def embedded(self) -> int:
        return int(self.site.ask("select count(embedding) from music_knowledge"))


@contextmanager
def under_way(site: Site, rows: int, **environment: str) -> Iterator[Run]:
    """Insert rows and start a run; returns when it has saved some of them."""
    site.add(rows)
    with Gate(latency=0.2) as server:
        run = Run(site, site.backfill(server, *STEPS, **environment), server, rows)
        if not wait_until(lambda: run.embedded() >= 20, 60, program=run.program):
            raise RuntimeError(f"the run did not start: {run.program.stderr}")
        yield run


def goes_on(cluster: Cluster, length: Length, done: str, strike: Callable[[Finding, Run], str]) -> Finding:
    """Disturb a run, and expect that it continues by itself and embeds every row.

    `strike` checks on the server that the fault happened, and returns its description.
    """
    finding = Finding(done)
    with open_site(cluster) as site, under_way(site, ROWS[length]) as run:
        outcome = strike(finding, run)
        ends_well(finding, run, outcome)
    return finding


class Log:
    """The lines that the server logs from now on."""

    def __init__(self, cluster: Cluster) -> None:
        self._path = cluster.log
        self._seen = self._path.stat().st_size

    def count(self, words: str) -> int:
        with self._path.open("rb") as log:
            log.seek(self._seen)
            return log.read().count(words.encode())


def ends_well(finding: Finding, run: Run, outcome: str) -> None:
    before = run.program.running
    began = time.monotonic()
    code = run.program.finish(PATIENCE)
    finding.expect(before, "the run had ended before the fault was over")
    finding.expect(code == 0, f"the run exits {code}: {run.program.stderr.strip()[-300:]}")
    finding.expect("Traceback" not in run.program.stderr, "a traceback is on stderr")
    finding.expect("psycopg" not in run.program.stderr, "a message of psycopg is on stderr")
    state = audit(run.site, run.rows)
    state.judge(finding)
    again = sent_again(run.server)
    finding.expect(again == 0, f"{again} texts were paid twice")
    finding.found = (
        f"{outcome}; the run continued and ended {time.monotonic() - began:.0f} s later with exit code {code}; "
        f"{state.embedded} of {state.rows} rows embedded, {state.wrong_vectors} wrong vectors, {again} texts paid twice"
    )


# The server stops


def until_saving(run: Run) -> None:
    """Wait until more rows are saved, which shows that the run works."""
    before = run.embedded()
    wait_until(lambda: run.embedded() > before, 30, program=run.program)
