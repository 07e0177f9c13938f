"""A drill of up to an hour of writes, backfills and searches. Memory and connections must not grow, and the queue must be
empty at the end.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.drills.audit import audit, verify
from tests.drills.background import Background, each
from tests.drills.harness import Finding, FunctionsServer, Gate, Length, Program, Site, Skipped, open_site, wait_until
from tests.drills.races import UNTOUCHED, Searcher, Writer
from tests.postgres_cluster import Cluster

SECONDS = {Length.SHORT: 90, Length.FULL: 180, Length.LONG: 3600}
ROWS = {Length.SHORT: 300, Length.FULL: 1000, Length.LONG: 2000}
# Caches fill and allocators settle in the first half; memory that still grows in the second half is a leak.
WARM_UP = 0.5
# The allowed growth in the second half: noise of the allocator, which is larger soon after a start.
NOISE_MB = {Length.SHORT: 8.0, Length.FULL: 4.0, Length.LONG: 4.0}
# The HTTP server opens 16 connections, the backfill 8, and the drill its own.
MOST_CONNECTIONS = 16 + 8 + 12
MB = 1024 * 1024


@dataclass
class _Course:
    """Memory of one process over time."""

    name: str
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def note(self, now: float, size: int) -> None:
        self.seconds.append(now)
        self.megabytes.append(size / MB)

    @property
    def slope(self) -> float:
        """The growth in MB per hour, fitted to the values after the warm-up."""
        begin = int(len(self.seconds) * WARM_UP)
        if len(self.seconds) - begin < 3:
            return 0.0
        return float(np.polyfit(self.seconds[begin:], self.megabytes[begin:], 1)[0]) * 3600

    @property
    def growth(self) -> float:
        """The growth in MB from the end of the warm-up to the end, by the slope."""
        begin = int(len(self.seconds) * WARM_UP)
        return self.slope * (self.seconds[-1] - self.seconds[begin]) / 3600

    def __str__(self) -> str:
        return f"{self.name} {self.megabytes[-1]:.0f} MB, {self.slope:+.0f} MB/h"


def soak(cluster: Cluster, length: Length) -> Finding:
    """Write, embed and search, and measure every process each second."""
    if not Path("/proc/self/statm").exists():
        raise Skipped("memory is read from /proc: run it on Linux")
    finding = Finding()
    seconds = SECONDS[length]
    with _as_in_production(cluster), open_site(cluster, ROWS[length]) as site, Gate(latency=0.02) as provider:
        first = site.backfill(provider, "--json").finish(120)
        finding.expect(first == 0, f"the first backfill exits {first}")
        site.ask("select create_embedding_index('music_knowledge')")
        with FunctionsServer(site, provider, "--drain-minutes", "0.05") as functions:
            held = _hold_a_row(site)
            worker = site.backfill(provider, "--batch-size", "10", "--workers", "2", "--json")
            watch = _Watch(site, provider, {"HTTP server": functions.program, "backfill": worker})
            # Few distinct queries, so that their cache is full before memory is measured.
            writer, searcher = Writer(site, 1), Searcher(functions, chords=5)
            tasks = [
                Background(writer.write, pause=0.04),
                Background(searcher.search, pause=0.08),
                Background(watch.look, pause=min(1.0, seconds / 60)),
            ]
            with each(tasks):
                time.sleep(seconds)
            finding.problems += [error for task in tasks for error in task.errors][:5] + searcher.problems[:3]
            finding.expect(worker.running, "the long backfill has ended too early")
            with site.connect() as owner:
                owner.execute("select release_embeddings('music_knowledge', %s)", [[held]])
            code = worker.finish(120)
            finding.expect(code == 0, f"the long backfill exits {code}: {worker.stderr[-300:]}")
            emptied = wait_until(lambda: site.ask("select count(*) from embedding.queue") == 0, 60)
            finding.expect(emptied, "the queue does not empty")
            finding.expect(functions.program.running, "the HTTP server has crashed")
        watch.judge(finding, length)
        state = audit(site)
        state.judge(finding)
        verify(site, provider, finding)
        bloat = _bloat(site)
    finding.done = (
        f"{sum(writer.done.values()):,} writes and {searcher.searches:,} searches in {seconds} s, while a backfill ran"
        " and the HTTP server embedded pending rows every 3 s"
    )
    finding.found = (
        f"memory at the end and its growth in the second half: {watch}; at most {watch.longest_queue} rows in the queue,"
        f" 0 at the end; {state.embedded:,} of {state.rows:,} rows embedded, {state.wrong_vectors} wrong vectors;"
        f" size of each index in kB (after a rebuild): {bloat}"
    )
    return finding


@contextmanager
def _as_in_production(cluster: Cluster) -> Iterator[None]:
    """Start autovacuum, which is off on the tests' server."""
    with cluster.admin() as admin:
        admin.execute("alter system set autovacuum = on")
        admin.execute("alter system set autovacuum_naptime = '10s'")
        admin.execute("select pg_reload_conf()")
    try:
        yield
    finally:
        with cluster.admin() as admin:
            admin.execute("alter system set autovacuum = off")
            admin.execute("alter system reset autovacuum_naptime")
            admin.execute("select pg_reload_conf()")


def _hold_a_row(site: Site) -> str:
    """Lease a row for a day: a run waits for leased rows, so it runs as long as the drill needs it."""
    with site.connect() as owner:
        owner.execute(
            "insert into music_knowledge (topic, content) values (%s, 'that another worker holds')", [UNTOUCHED]
        )
        row = owner.execute("select row_id from claim_embeddings('music_knowledge', 1, 86400)").fetchone()
    if row is None:
        raise RuntimeError("no row could be leased")
    return str(row[0])


class _Watch:
    """Measures memory, connections and queue; keeps the fake provider's list of calls short."""

    def __init__(self, site: Site, provider: Gate, programs: dict[str, Program]) -> None:
        self._connection = site.keep_connection()
        self._site, self._provider, self._programs = site, provider, programs
        self._began = time.monotonic()
        self._courses = {name: _Course(name) for name in (*programs, "PostgreSQL")}
        self.connections: list[int] = []
        self.longest_queue = 0

    def look(self) -> None:
        now = time.monotonic() - self._began
        for name, program in self._programs.items():
            self._courses[name].note(now, _resident(program.process.pid))
        self._courses["PostgreSQL"].note(now, sum(_private(pid) for pid in _family(self._site.cluster.pid)))
        row = self._connection.execute(
            "select (select count(*) from pg_stat_activity where datname = current_database()),"
            " (select count(*) from embedding.queue)"
        ).fetchone()
        if row:
            self.connections.append(row[0])
            self.longest_queue = max(self.longest_queue, row[1])
        if len(self._provider.calls) > 2000:
            del self._provider.calls[:1000]

    def judge(self, finding: Finding, length: Length) -> None:
        for course in self._courses.values():
            finding.expect(
                course.growth < NOISE_MB[length],
                f"{course.name} grew by {course.growth:.0f} MB in the second half ({course.slope:+.0f} MB/h)",
            )
        most = max(self.connections)
        finding.expect(most <= MOST_CONNECTIONS, f"{most} connections were open at once, more than {MOST_CONNECTIONS}")

    def __str__(self) -> str:
        memory = "; ".join(str(course) for course in self._courses.values())
        return f"{memory}; at most {max(self.connections)} connections"


def _resident(pid: int) -> int:
    """Bytes of memory that the process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _private(pid: int) -> int:
    """Bytes that no other process shares (not the server's buffers); 0 for a process that has just ended."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
    return 0


def _family(pid: int) -> list[int]:
    """The process and its children."""
    with suppress(OSError):
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    return []


def _bloat(site: Site) -> str:
    """The size of every index of the table and the queue, and its size after a rebuild."""
    with site.connect() as owner:
        names = [
            row[0]
            for row in owner.execute(
                "select indexrelid::regclass::text from pg_index"
                " where indrelid in ('public.music_knowledge'::regclass, 'embedding.queue'::regclass) order by 1"
            ).fetchall()
        ]
        sizes = []
        for name in names:
            before = owner.execute("select pg_relation_size(%s::regclass)", [name]).fetchone() or (0,)
            owner.execute(f"reindex index {name}")
            after = owner.execute("select pg_relation_size(%s::regclass)", [name]).fetchone() or (1,)
            sizes.append(f"{name.rpartition('.')[2]} {before[0] / 1024:,.0f} ({after[0] / 1024:,.0f})")
    return ", ".join(sizes)
