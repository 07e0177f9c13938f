"""Helpers that read and change what the days have cost."""

from tests.database.rows import Connection


def spend(owner: Connection, usd: float) -> None:
    """Set what today has cost, as if another process had spent it."""
    owner.execute(
        "insert into embedding.spending values ((now() at time zone 'UTC')::date, %s)"
        " on conflict (day) do update set cost_usd = excluded.cost_usd",
        [usd],
    )


def spent(owner: Connection) -> float | None:
    """What today has cost; None if no process has asked yet."""
    found = owner.execute(
        "select cost_usd::float from embedding.spending where day = (now() at time zone 'UTC')::date"
    ).fetchone()
    return found and float(found[0])


def next_day(owner: Connection) -> None:
    """Make everything that was spent and every run a day older."""
    owner.execute("delete from embedding.spending where day < (now() at time zone 'UTC')::date")
    owner.execute("update embedding.spending set day = day - 1")
    owner.execute("update embedding.runs set started_at = started_at - interval '1 day'")
