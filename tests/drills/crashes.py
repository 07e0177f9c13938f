"""kill -9 of a worker at each stage of its work, while others go on."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import errors, sql

from tests.drills.harness import (
    Background,
    Connection,
    Finding,
    Gate,
    Length,
    Program,
    Site,
    audit,
    each,
    open_site,
    texts_sent,
    verify,
    wait_until,
)
from tests.postgres_cluster import Cluster
from tests.protocol_server import ProtocolServer

ROUNDS = {Length.SHORT: 8, Length.FULL: 200, Length.LONG: 600}
ROWS = {Length.SHORT: 300, Length.FULL: 2000, Length.LONG: 2000}
SURVIVORS = 2
# Victims that are started, led to their stage and killed side by side.
SLOTS = 3
STAGES = ("claim", "call", "answer", "save")

BATCH, WORKERS = 5, 1
# What shared/services/backfill.py lets such a worker hold: a batch embedded, one waiting, two being saved.
MOST_LEASED = BATCH * (2 * WORKERS + 2)
SMALL_STEPS = ("--batch-size", str(BATCH), "--workers", str(WORKERS))

# Stages inside the database: a victim's own statement waits for a lock that the drill holds.
_PAUSES = """
create schema drill;
create sequence drill.version;
create function drill.pause() returns trigger language plpgsql as $$
begin
  if session_user like 'drill_victim%' and current_setting('drill.stage', true) = tg_argv[0] then
    perform pg_advisory_xact_lock(hashtext(session_user));
  end if;
  return null;
end;
$$;
create trigger drill_claim after update on embedding.queue for each statement execute function drill.pause('claim');
create trigger drill_save after update on music_knowledge for each statement execute function drill.pause('save');
"""


def kill_at_every_stage(cluster: Cluster, length: Length) -> Finding:
    """Kill workers at random stages until the rounds are over; then let the others finish."""
    rows = ROWS[length]
    finding = Finding()
    with open_site(cluster, rows) as site, _victims(site), each(Gate(latency=0.4) for _ in range(SURVIVORS)) as alive:
        survivors = [site.backfill(server, *SMALL_STEPS) for server in alive]
        slaughter = _Slaughter(site, ROUNDS[length])
        with Background(lambda: _keep_pending(site), pause=0.1) as feeder:
            slaughter.run()
        codes = [survivor.finish(180) for survivor in survivors]
        finding.expect(codes == [0] * SURVIVORS, f"the other workers exit {codes}: {survivors[0].stderr[-300:]}")
        finding.problems += [*slaughter.problems, *feeder.errors]
        state = audit(site, rows)
        state.judge(finding)
        verify(site, alive[0], finding)
        _judge_payments(finding, slaughter, alive)
    kills = ", ".join(f"{slaughter.kills[stage]} {stage}" for stage in STAGES)
    finding.done = (
        f"{sum(slaughter.kills.values())} workers killed ({kills}) on {rows:,} rows beside {SURVIVORS} others"
    )
    finding.found = f"{state.embedded:,} of {state.rows:,} embedded, verify 0; {finding.found}"
    return finding


def _judge_payments(finding: Finding, slaughter: "_Slaughter", alive: list[ProtocolServer]) -> None:
    """Whoever lives pays for a text once; what was paid again, a killed worker had leased."""
    killed = texts_sent(slaughter.servers)
    living = texts_sent(alive)
    again = sum((killed + living).values()) - len(killed + living)
    bound = MOST_LEASED * sum(slaughter.kills.values())
    twice = [text for text, count in living.items() if count > 1]
    finding.expect(not twice, f"{len(twice)} texts were paid twice by workers that lived, such as {twice[:1]}")
    finding.expect(again <= bound, f"{again} texts were paid again, more than the {bound} that the killed had leased")
    finding.found = (
        f"{sum(living.values()) + sum(killed.values()):,} texts sent, {again} of them again (bound {bound:,})"
    )


def _keep_pending(site: Site) -> None:
    """New texts for old rows, so that there is something to claim until the last round."""
    with site.connect() as owner:
        owner.execute("set lock_timeout = '2s'")
        ready = owner.execute(
            "select count(*) from embedding.queue where failed_at is null and available_at <= clock_timestamp()"
        ).fetchone()
        if ready and ready[0] < 40:
            # A row that a paused save holds is passed over: it waits for the drill, not the other way round.
            try:
                owner.execute(
                    "update music_knowledge set content = 'version ' || nextval('drill.version') where id in ("
                    " select id from music_knowledge where embedding is not null order by random() limit 40"
                    " for update skip locked)"
                )
            except (errors.LockNotAvailable, errors.DeadlockDetected):
                return


@contextmanager
def _victims(site: Site) -> Iterator[None]:
    """Users for the victims, so that the database can tell them from the others."""
    with site.cluster.admin() as admin:
        for slot in range(SLOTS):
            admin.execute(sql.SQL("create role {} login in role service_role").format(sql.Identifier(_role(slot))))
    try:
        with site.connect() as owner:
            owner.execute(_PAUSES)
        yield
    finally:
        site.close()
        with site.cluster.admin() as admin:
            for slot in range(SLOTS):
                admin.execute(sql.SQL("drop role {}").format(sql.Identifier(_role(slot))))


def _role(slot: int) -> str:
    return f"drill_victim_{slot}"


class _Slaughter:
    """Shares the rounds out between the slots. `kills` by stage; `servers`: what each victim had asked."""

    def __init__(self, site: Site, rounds: int) -> None:
        self._site = site
        # Every stage in turn, so that a short form has them all; the order within is chance.
        self._stages = [stage for _ in range(0, rounds, len(STAGES)) for stage in random.sample(STAGES, len(STAGES))]
        self._lock = threading.Lock()
        self.kills: Counter[str] = Counter()
        self.servers: list[ProtocolServer] = []
        self.problems: list[str] = []

    def run(self) -> None:
        threads = [threading.Thread(target=self._work, args=(slot,), daemon=True) for slot in range(SLOTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, slot: int) -> None:
        try:
            with self._site.connect() as owner:
                while stage := self._next():
                    self._round(owner, slot, stage)
        except Exception as error:  # noqa: BLE001 - reported by the drill
            self.problems.append(f"{type(error).__name__}: {error}")

    def _next(self) -> str | None:
        with self._lock:
            return self._stages.pop() if self._stages and len(self.problems) < 5 else None

    def _round(self, owner: Connection, slot: int, stage: str) -> None:
        role = _role(slot)
        owner.execute(sql.SQL("alter role {} set drill.stage = {}").format(sql.Identifier(role), sql.Literal(stage)))
        owner.execute("select pg_advisory_lock(hashtext(%s))", [role])
        try:
            with Gate(passing=random.randrange(3), holds=stage == "call") as server:
                self.servers.append(server)
                url = self._site.cluster.url(self._site.url, user=role)
                victim = self._site.backfill(server, *SMALL_STEPS, DATABASE_URL=url)
                reached = wait_until(lambda: self._is_at(owner, server, role, stage), 60, program=victim)
                victim.kill()
                server.release()
                if stage == "save" and random.random() < 0.5:
                    # Its save ends with it; in the other half it is carried out though nobody waits for it.
                    owner.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", [role])
        finally:
            owner.execute("select pg_advisory_unlock_all()")
        self._note(stage, reached, victim)
        wait_until(lambda: not _connected(owner, role), 20)

    def _note(self, stage: str, reached: bool, victim: Program) -> None:
        with self._lock:
            if reached:
                self.kills[stage] += 1
            else:
                self.problems.append(f"no worker came to the stage {stage}: {victim.stderr.strip()[-200:]}")

    @staticmethod
    def _is_at(owner: Connection, server: Gate, role: str, stage: str) -> bool:
        if stage == "call":
            return server.was_asked.is_set()
        if stage == "answer":
            return server.has_answered.is_set()
        waiting = owner.execute(
            "select from pg_stat_activity where usename = %s and wait_event_type = 'Lock' and wait_event = 'advisory'",
            [role],
        ).fetchone()
        return waiting is not None


def _connected(owner: Connection, role: str) -> bool:
    return owner.execute("select from pg_stat_activity where usename = %s", [role]).fetchone() is not None
