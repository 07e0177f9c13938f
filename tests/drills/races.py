"""A drill with random writers, four workers and searching readers at the same time."""

import random
import time
from contextlib import suppress

import psycopg

from tests.drills.audit import audit, is_vector_of, verify
from tests.drills.background import Background, each
from tests.drills.harness import Finding, FunctionsServer, Gate, Length, Program, Site, open_site
from tests.postgres_cluster import Cluster

SECONDS = {Length.SHORT: 8, Length.FULL: 60, Length.LONG: 300}
ROWS = 300
WORKERS = 4
WRITERS = 3
# The topic of rows that writers do not change.
UNTOUCHED = "untouched"
# A writer waits for rows that a save has locked, and a deadlock may cancel it.
_LOST_A_LOCK = (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable)


def write_while_workers_run(cluster: Cluster, length: Length) -> Finding:
    """Samples rows during random writes: every vector must belong to the text of its row."""
    finding = Finding()
    with open_site(cluster, ROWS) as site, each(Gate(latency=0.02) for _ in range(WORKERS)) as servers:
        first = site.backfill(servers[0], "--json").finish(60)
        finding.expect(first == 0, f"the first backfill exits {first}")
        with FunctionsServer(site, servers[0], "--drain-minutes", "0") as functions:
            crew = _Crew(site, servers)
            writers = [Writer(site, seed) for seed in range(WRITERS)]
            sampler, searcher = _Sampler(site), Searcher(functions)
            tasks = [
                *(Background(writer.write, pause=0.005) for writer in writers),
                Background(crew.keep_working, pause=0.05),
                Background(sampler.look, pause=0.02),
                Background(searcher.search, pause=0.02),
            ]
            with each(tasks):
                time.sleep(SECONDS[length])
        finding.problems += [error for task in tasks for error in task.errors][:5]
        finding.problems += [*crew.end(), *sampler.problems[:3], *searcher.problems[:3]]
        last = site.backfill(servers[0], "--json").finish(120)
        finding.expect(last == 0, f"the last backfill exits {last}")
        state = audit(site)
        state.judge(finding)
        verify(site, servers[0], finding)
        finding.expect(sampler.vectors > 0 and searcher.searches > 0, "nothing was sampled")
    writes = {name: sum(writer.done[name] for writer in writers) for name in ("insert", "update", "delete")}
    finding.done = (
        f"{WRITERS} writers made {', '.join(f'{count:,} {name}s' for name, count in writes.items())}"
        f" in {SECONDS[length]} s while {WORKERS} workers embedded"
    )
    finding.found = (
        f"{sampler.vectors:,} vectors sampled, {len(sampler.problems)} wrong; {searcher.searches:,} searches,"
        f" {len(searcher.problems)} failed; at the end {state.embedded:,} of {state.rows:,} rows embedded,"
        f" {state.wrong_vectors} wrong vectors, {state.without_row} queue entries of deleted rows"
    )
    return finding


class _Crew:
    """Four workers; a worker that ends because the queue is empty is replaced."""

    def __init__(self, site: Site, servers: list[Gate]) -> None:
        self._site, self._servers = site, servers
        self._programs = [self._start(server) for server in servers]
        self._codes: list[tuple[int, str]] = []

    def _start(self, server: Gate) -> Program:
        return self._site.backfill(server, "--batch-size", "10", "--workers", "1", "--json")

    def keep_working(self) -> None:
        for place, program in enumerate(self._programs):
            if not program.running:
                self._codes.append((program.process.returncode, program.stderr))
                self._programs[place] = self._start(self._servers[place])

    def end(self) -> list[str]:
        """Wait for the workers to embed the remaining rows; returns their errors."""
        self._codes += [(program.finish(120), program.stderr) for program in self._programs]
        return [f"a worker exits {code}: {stderr.strip()[-200:]}" for code, stderr in self._codes if code != 0][:3]


class Writer:
    """Makes random writes. Some texts are used twice, and some rows get a former text again."""

    def __init__(self, site: Site, seed: int) -> None:
        self._site = site
        self._random = random.Random(seed)
        self._connection = site.keep_connection()
        self._connection.execute("set lock_timeout = '5s'")
        self.done = {"insert": 0, "update": 0, "delete": 0}

    def write(self) -> None:
        name = self._random.choices(("insert", "update", "delete"), (2, 6, 2))[0]
        with suppress(*_LOST_A_LOCK):
            getattr(self, f"_{name}")()
            self.done[name] += 1

    def _text(self) -> str:
        return f"chord {self._random.randrange(500)} over {self._random.randrange(20)}"

    def _insert(self) -> None:
        self._connection.execute("insert into music_knowledge (topic, content) values ('', %s)", [self._text()])

    def _update(self) -> None:
        many = self._random.choice((1, 1, 1, 7))
        self._connection.execute(
            "update music_knowledge set content = %s || case when %s then id::text else '' end"
            " where id in (select id from music_knowledge where topic <> %s order by random() limit %s)",
            [self._text(), self._random.random() < 0.5, UNTOUCHED, many],
        )

    def _delete(self) -> None:
        self._connection.execute(
            "delete from music_knowledge where id in (select id from music_knowledge where topic <> %s order by random() limit 1)"
            " and (select count(*) from music_knowledge) > %s",
            [UNTOUCHED, ROWS // 2],
        )


class _Sampler:
    """Reads rows in one snapshot and computes their vectors again."""

    def __init__(self, site: Site) -> None:
        self._connection = site.keep_connection()
        self.vectors = 0
        self.problems: list[str] = []

    def look(self) -> None:
        rows = self._connection.execute(
            "select m.id, embedding.document_text(m), m.embedding::text from music_knowledge m"
            " where m.embedding is not null order by random() limit 20"
        ).fetchall()
        for row_id, text, vector in rows:
            self.vectors += 1
            if not is_vector_of(vector, text):
                self.problems.append(f"the vector of row {row_id} is not that of its text")


class Searcher:
    """Searches over HTTP. Every answer must be 200 and complete, with existing rows only. A chord stands for 20 queries."""

    def __init__(self, functions: FunctionsServer, *, chords: int = 500) -> None:
        self._functions = functions
        self._chords = chords
        self._random = random.Random(9)
        self.searches = 0
        self.problems: list[str] = []

    def search(self) -> None:
        answer = self._functions.search(
            f"chord {self._random.randrange(self._chords)} over {self._random.randrange(20)}"
        )
        self.searches += 1
        if answer.status_code != 200:
            self.problems.append(f"a search is answered {answer.status_code}: {answer.text[:150]}")
        elif answer.json()["degraded"] or not answer.json()["hits"]:
            self.problems.append(f"a search is answered {answer.text[:150]}")
