"""The rows a run holds, and the copies of a text that wait for the one under way."""

import threading
import time

from shared.embedding.in_flight import Leases
from shared.embedding.tally import Tally
from shared.models import ClaimedRow


def row(row_id: str, text: str = "text") -> ClaimedRow:
    return ClaimedRow(row_id, text, f"hash of {text}", 1)


def test_room_is_what_is_not_held() -> None:
    leases = Leases(10)
    leases.hold([row(str(number)) for number in range(8)])
    assert leases.wait_for_room(2, 0)
    assert not leases.wait_for_room(3, 0)
    leases.settle([row("0")])
    assert leases.wait_for_room(3, 0)


def test_a_batch_larger_than_the_room_is_let_in_when_nothing_is_held() -> None:
    leases = Leases(10)
    assert leases.wait_for_room(50, 0)
    leases.hold([row("1")])
    assert not leases.wait_for_room(50, 0)


def test_a_wait_for_room_ends_as_soon_as_there_is_some() -> None:
    leases = Leases(1)
    leases.hold([row("1")])
    threading.Timer(0.05, leases.settle, [[row("1")]]).start()
    started = time.monotonic()
    assert leases.wait_for_room(1, 60)
    assert time.monotonic() - started < 30


def test_what_is_held_is_known_by_id() -> None:
    leases = Leases(10)
    leases.hold([row("1"), row("2")])
    leases.settle([row("2"), row("never held")])
    assert leases.held() == ["1"]


def test_equal_texts_follow_the_first() -> None:
    leases = Leases(10)
    first, second, other = row("1"), row("2"), row("3", "other")
    assert not leases.follow(first)
    leases.lead(first)
    assert leases.follow(second)
    assert not leases.follow(other)
    assert leases.take_followers(first) == [second]


def test_a_text_is_followed_until_a_look_found_nobody() -> None:
    """Between a save and the look for followers another row may have come: it must not wait for ever."""
    leases = Leases(10)
    first, second, third = row("1"), row("2"), row("3")
    leases.lead(first)
    leases.follow(second)
    assert leases.take_followers(first) == [second]
    assert leases.follow(third), "the second is being saved: the third may still come along"
    assert leases.take_followers(second) == [third]
    assert leases.take_followers(third) == []
    assert not leases.follow(row("4")), "from here on it is the table that knows the text"


def test_followers_of_a_failed_text_are_dismissed() -> None:
    leases = Leases(10)
    first, second = row("1"), row("2")
    leases.lead(first)
    leases.follow(second)
    assert leases.dismiss_followers(first) == [second]
    assert not leases.follow(row("3"))
    assert leases.dismiss_followers(first) == []


def test_money_is_reserved_before_it_is_spent() -> None:
    tally = Tally("c", "m", price_per_million_tokens=1_000_000, max_cost=10)
    assert tally.reserve(6)
    assert not tally.reserve(5)
    tally.spend(6, 4)
    assert tally.report().cost_usd == 4
    assert tally.reserve(6)
    assert not tally.reserve(1)


def test_counts_of_many_threads_add_up() -> None:
    tally = Tally("c", "m", price_per_million_tokens=0, max_cost=None)
    threads = [
        threading.Thread(target=lambda: [tally.add(processed=1, embedded=2) for _ in range(500)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = tally.report()
    assert (report.processed, report.embedded, report.cost_usd) == (2000, 4000, 0)
