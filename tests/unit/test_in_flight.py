"""Tests the rows that a run holds, equal texts, and the cost limit."""

from collections.abc import Sequence

from shared.embedding.in_flight import InFlight
from shared.embedding.tally import Tally
from shared.models import BackfillReport, ClaimedRow, Spent


def row(row_id: str, text: str = "a text") -> ClaimedRow:
    return ClaimedRow(row_id, text, f"hash of {text}", 1)


def test_rows_are_held_until_they_are_saved_or_failed() -> None:
    in_flight = InFlight()
    in_flight.add([row("1"), row("2", "other")])
    in_flight.settle([row("2"), row("never held")])
    assert in_flight.held == {"1"}


def test_equal_texts_follow_the_first() -> None:
    in_flight = InFlight()
    first, second, third, other = row("1"), row("2"), row("3"), row("4", "other")
    assert in_flight.add([first, second]) == [first]
    assert in_flight.add([third, other]) == [other]
    assert len(in_flight.held) == 4
    assert in_flight.settle([first]) == [[second, third]]


def test_later_rows_wait_for_a_text_until_no_row_waits_for_it() -> None:
    """A row with an equal text that arrives while the waiting rows are saved waits too."""
    in_flight = InFlight()
    first, second, third = row("1"), row("2"), row("3")
    in_flight.add([first, second])
    assert in_flight.settle([first]) == [[second]]
    assert in_flight.add([third]) == []
    assert in_flight.settle([second]) == [[third]]
    assert in_flight.settle([third]) == [[]]
    assert in_flight.add([row("4")]) == [row("4")], "from here on the table knows the text"


def count(texts: Sequence[str]) -> list[int]:
    return [3 for _ in texts]


def test_money_is_reserved_before_it_is_spent() -> None:
    tally = Tally(BackfillReport("c", "m"), price=1_000_000, max_cost=10)
    assert tally.reserve(["six", "tokens"], count) == 6
    assert tally.reserve(["five"], lambda _: [5]) is None
    tally.add(reserved=6, spent=Spent(tokens=4, calls=2))
    assert (tally.report.cost_usd, tally.calls) == (4, 2)
    assert tally.reserve(["six", "tokens"], count) == 6
    assert tally.reserve(["one"], lambda _: [1]) is None


def test_a_free_provider_reserves_no_tokens() -> None:
    for price, max_cost in ((0, 1), (1, None)):
        tally = Tally(BackfillReport("c", "m"), price, max_cost)
        assert tally.reserve(["a text"], lambda _: 1 / 0) == 0  # type: ignore[arg-type, return-value]


def test_every_row_that_got_a_result_is_processed() -> None:
    tally = Tally(BackfillReport("c", "m"), price=0, max_cost=None)
    tally.add(embedded=3, reused=1)
    tally.add(failed=1, stale=1, truncated=1)
    report = tally.report
    assert (report.processed, report.embedded, report.failed, report.stale) == (5, 3, 1, 1)
    assert (report.reused, report.truncated) == (1, 1)
