"""The rows that a run holds, equal texts among them, and the money it may spend."""

from shared.embedding.in_flight import InFlight
from shared.embedding.tally import Tally
from shared.models import ClaimedRow


def row(row_id: str, text: str = "a text") -> ClaimedRow:
    return ClaimedRow(row_id, text, f"hash of {text}", 1)


def test_rows_are_held_until_they_are_settled() -> None:
    in_flight = InFlight()
    in_flight.add([row("1"), row("2", "other")])
    in_flight.settle([row("2"), row("never held")])
    assert (in_flight.row_ids, len(in_flight)) == (["1"], 1)


def test_equal_texts_follow_the_first() -> None:
    in_flight = InFlight()
    first, second, third, other = row("1"), row("2"), row("3"), row("4", "other")
    assert in_flight.add([first, second]) == [first]
    assert in_flight.add([third, other]) == [other]
    assert len(in_flight) == 4
    assert in_flight.take_followers(first) == [second, third]


def test_a_text_is_followed_until_it_has_no_followers() -> None:
    """While the followers are being saved, an equal text follows them too."""
    in_flight = InFlight()
    first, second, third = row("1"), row("2"), row("3")
    in_flight.add([first, second])
    assert in_flight.take_followers(first) == [second]
    assert in_flight.add([third]) == []
    assert in_flight.take_followers(second) == [third]
    assert in_flight.take_followers(third) == []
    assert in_flight.add([row("4")]) == [row("4")], "from here on the table knows the text"


def test_money_is_reserved_before_it_is_spent() -> None:
    tally = Tally("c", "m", price_per_million_tokens=1_000_000, max_cost=10)
    assert tally.limits_cost
    assert tally.reserve(6)
    assert not tally.reserve(5)
    tally.spend(6, 4)
    assert tally.report.cost_usd == 4
    assert tally.reserve(6)
    assert not tally.reserve(1)


def test_every_row_that_got_a_result_is_processed() -> None:
    tally = Tally("c", "m", price_per_million_tokens=0, max_cost=None)
    tally.add(embedded=3, reused=1)
    tally.add(failed=1, stale=1, truncated=1)
    report = tally.report
    assert (report.processed, report.embedded, report.failed, report.stale) == (5, 3, 1, 1)
    assert (report.reused, report.truncated) == (1, 1)
