"""The rows a run holds: counted, so that it claims no more than it can work on."""

import threading
from collections.abc import Iterable

from shared.models import ClaimedRow


class Leases:
    """Which rows this process holds, and the copies of a text that wait for the one being embedded.

    A text in flight is embedded once: a later row with the same text follows the first and is saved with
    its vector.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held: set[str] = set()
        self._followers: dict[str, list[ClaimedRow]] = {}
        self._changed = threading.Condition()

    def wait_for_room(self, rows: int, timeout: float) -> bool:
        """Wait until `rows` more may be held; False if there is no room after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._held or len(self._held) + rows <= self._capacity, timeout)

    def wait_for_change(self, held: Iterable[str], timeout: float) -> None:
        """Wait until these are no longer the rows held, or `timeout` seconds have passed."""
        with self._changed:
            self._changed.wait_for(lambda: self._held != set(held), timeout)

    def hold(self, rows: Iterable[ClaimedRow]) -> None:
        """Count these rows as ours."""
        with self._changed:
            self._held.update(row.row_id for row in rows)

    def settle(self, rows: Iterable[ClaimedRow]) -> None:
        """These rows are saved, failed or given back."""
        with self._changed:
            self._held.difference_update(row.row_id for row in rows)
            self._changed.notify_all()

    def held(self) -> list[str]:
        """The ids of the rows held now."""
        with self._changed:
            return list(self._held)

    def follow(self, row: ClaimedRow) -> bool:
        """True where the row's text is being embedded already: the row will be saved along."""
        with self._changed:
            waiting = self._followers.get(row.text_hash)
            if waiting is None:
                return False
            waiting.append(row)
            return True

    def lead(self, row: ClaimedRow) -> None:
        """From here on, rows with this row's text follow it."""
        with self._changed:
            self._followers[row.text_hash] = []

    def take_followers(self, row: ClaimedRow) -> list[ClaimedRow]:
        """The rows that wait for this row's text; when there are none left, nobody follows it any more."""
        with self._changed:
            waiting = self._followers.get(row.text_hash, [])
            if waiting:
                self._followers[row.text_hash] = []
            else:
                self._followers.pop(row.text_hash, None)
            return waiting

    def dismiss_followers(self, row: ClaimedRow) -> list[ClaimedRow]:
        """All rows that wait for this row's text, which will not be embedded by it."""
        with self._changed:
            return self._followers.pop(row.text_hash, [])
