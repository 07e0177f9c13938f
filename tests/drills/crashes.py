"""Kills workers with kill -9 at each stage of their work, while others continue."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import errors, sql

from tests.drills.audit import audit, verify
from tests.drills.background import Background, each
from tests.drills.harness import Connection, Finding, Gate, Length, Program, Site, open_site, texts_sent, wait_until
from tests.postgres_cluster import Cluster
from tests.protocol_server import ProtocolServer

ROUNDS = {Length.SHORT: 8, Length.FULL: 200, Length.LONG: 600}
ROWS = {Length.SHORT: 300, Length.FULL: 2000, Length.LONG: 2000}
SURVIVORS = 2
# Victims, the workers to be killed, run in this number of slots at the same time.
SLOTS = 3
STAGES = ("claim", "call", "answer", "save")

SMALL_STEPS = ("--batch-size", "5", "--workers", "1")
# The most times that a victim passes its stage before it is killed there. It can hold four batches, so it reaches a fourth claim.
MOST_PASSING = 3

# Stages inside the database: after one of these statements, the worker's next statement waits for a lock of the drill.
# The transaction of a save also writes a log entry, so an entry exists exactly if the save was committed.
_PAUSES = """
create schema drill;
create sequence drill.version;
create table drill.saved (round integer, text text);

create function drill.note() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  if session_user like 'drill_victim%' then
    insert into drill.saved
    select current_setting('drill.round')::integer, embedding.document_text(row(c.*)::public.music_knowledge)
    from changed c where c.embedding is not null;
  end if;
  return null;
end;
$$;
create trigger drill_1_note after update on music_knowledge
  referencing new table as changed for each statement execute function drill.note();

create function drill.pause() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  if session_user like 'drill_victim%' and current_setting('drill.stage') = tg_argv[0]
      and exists (select from changed) and nextval('drill.' || session_user) > current_setting('drill.passing')::bigint then
    perform pg_advisory_xact_lock(hashtext(session_user));
  end if;
  return null;
end;
$$;
create trigger drill_2_claim after update on embedding.queue
  referencing new table as changed for each statement execute function drill.pause('claim');
create trigger drill_2_save after update on music_knowledge
  referencing new table as changed for each statement execute function drill.pause('save');
"""


def kill_at_every_stage(cluster: Cluster, length: Length) -> Finding:
    """Kill workers at random stages for some rounds; then let the others finish."""
    rows = ROWS[length]
    finding = Finding()
    with open_site(cluster, rows) as site, _victims(site), each(Gate(latency=0.4) for _ in range(SURVIVORS)) as alive:
        survivors = [site.backfill(server, *SMALL_STEPS) for server in alive]
        killer = _Killer(site, ROUNDS[length])
        with Background(lambda: _keep_pending(site), pause=0.1) as feeder:
            killer.run()
        codes = [survivor.finish(180) for survivor in survivors]
        finding.expect(codes == [0] * SURVIVORS, f"the other workers exit {codes}: {survivors[0].stderr[-300:]}")
        finding.problems += [*killer.problems, *feeder.errors]
        state = audit(site, rows)
        state.judge(finding)
        verify(site, alive[0], finding)
        _judge_payments(finding, site, killer, alive)
    kills = ", ".join(f"{killer.kills[stage]} at {stage}" for stage in STAGES)
    finding.done = (
        f"{sum(killer.kills.values())} workers were killed ({kills}) while {SURVIVORS} others embedded {rows:,} rows"
    )
    finding.found = (
        f"{state.embedded:,} of {state.rows:,} rows embedded, {state.wrong_vectors} wrong vectors; {finding.found}"
    )
    return finding


def _judge_payments(finding: Finding, site: Site, killer: "_Killer", alive: list[ProtocolServer]) -> None:
    """Expect that a text is paid for again only if a killed worker had sent it and not saved its vector."""
    with site.connect() as owner:
        ledger = owner.execute("select round, text from drill.saved").fetchall()
    killed, living = texts_sent(killer.servers), texts_sent(alive)
    again = sum((killed + living).values()) - len(killed + living)
    sent = [set(texts_sent([server])) for server in killer.servers]
    saved = [texts & {text for number, text in ledger if number == place} for place, texts in enumerate(sent)]
    lost = [len(texts - kept) for texts, kept in zip(sent, saved, strict=True)]
    twice = [text for text, count in living.items() if count > 1]
    finding.expect(
        not twice, f"{len(twice)} texts were paid twice by workers that were not killed, such as {twice[:1]}"
    )
    finding.expect(
        again <= sum(lost), f"{again} texts were paid again, more than the {sum(lost)} that killed workers lost"
    )
    repaid = _sent_after(saved, killer.servers, alive)
    finding.expect(
        not repaid, f"{len(repaid)} texts were paid again that a killed worker had saved, such as {repaid[:1]}"
    )
    finding.expect(any(saved), "no killed worker had saved a row, so the drill tested little")
    finding.found = (
        f"{sum(living.values()) + sum(killed.values()):,} texts sent to the provider, {again:,} of them again;"
        f" the killed workers had saved {sum(map(len, saved)):,} of the texts that they had sent,"
        f" and lost {sum(lost):,}, at most {max(lost)} each"
    )


def _sent_after(saved: list[set[str]], victims: list[ProtocolServer], alive: list[ProtocolServer]) -> list[str]:
    """Texts that a killed worker saved and that were sent again afterwards."""
    last: dict[str, float] = {}
    for server in (*victims, *alive):
        for call in server.calls:
            for text in call.inputs:
                last[text] = max(last.get(text, 0.0), call.arrived)
    return [
        text
        for texts, victim in zip(saved, victims, strict=True)
        for call in victim.calls
        for text in call.inputs
        if text in texts and last[text] > call.arrived
    ]


def _keep_pending(site: Site) -> None:
    """Change texts of old rows, so that rows are pending until the last round."""
    with site.connect() as owner:
        owner.execute("set lock_timeout = '2s'")
        ready = owner.execute(
            "select count(*) from embedding.queue where failed_at is null and available_at <= clock_timestamp()"
        ).fetchone()
        if ready and ready[0] < 40:
            # Skip a row that a paused save has locked: waiting for it would be a deadlock with the drill.
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
            for slot in range(SLOTS):
                owner.execute(sql.SQL("create sequence drill.{}").format(sql.Identifier(_role(slot))))
        yield
    finally:
        site.close()
        with site.cluster.admin() as admin:
            for slot in range(SLOTS):
                admin.execute(sql.SQL("drop role {}").format(sql.Identifier(_role(slot))))


def _role(slot: int) -> str:
    return f"drill_victim_{slot}"


class _Killer:
    """Kills one worker in each round. `kills` counts them by stage; `servers` has the provider of each round's worker."""

    def __init__(self, site: Site, rounds: int) -> None:
        self._site = site
        # Each turn has one round for every stage, in random order. From turn to turn the victim passes its stage another
        # number of times before it is killed.
        first = {stage: random.randrange(MOST_PASSING + 1) for stage in STAGES}
        self._plan = [
            (stage, (first[stage] + turn) % (MOST_PASSING + 1))
            for turn in range(-(-rounds // len(STAGES)))
            for stage in random.sample(STAGES, len(STAGES))
        ]
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
                while planned := self._next():
                    self._round(owner, slot, *planned)
        except Exception as error:  # noqa: BLE001 - reported by the drill
            self.problems.append(f"{type(error).__name__}: {error}")

    def _next(self) -> tuple[str, int] | None:
        with self._lock:
            return self._plan.pop() if self._plan and len(self.problems) < 5 else None

    def _add(self, server: ProtocolServer) -> int:
        """Add a round; returns its number, which is the index of its server."""
        with self._lock:
            self.servers.append(server)
            return len(self.servers) - 1

    def _round(self, owner: Connection, slot: int, stage: str, passing: int) -> None:
        role = _role(slot)
        owner.execute("select setval(%s, 1, false)", [f"drill.{role}"])
        owner.execute("select pg_advisory_lock(hashtext(%s))", [role])
        try:
            with Gate(passing=passing, holds=stage == "call") as server:
                for name, value in (("stage", stage), ("passing", str(passing)), ("round", str(self._add(server)))):
                    owner.execute(
                        sql.SQL("alter role {} set {} = {}").format(
                            sql.Identifier(role), sql.SQL(f"drill.{name}"), sql.Literal(value)
                        )
                    )
                url = self._site.cluster.url(self._site.url, user=role)
                victim = self._site.backfill(server, *SMALL_STEPS, DATABASE_URL=url)
                reached = wait_until(lambda: self._is_at(owner, server, role, stage), 60, program=victim)
                victim.kill()
                server.release()
                if stage == "save" and random.random() < 0.5:
                    # In half of the rounds the save ends with its worker; in the other half the server completes it.
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
