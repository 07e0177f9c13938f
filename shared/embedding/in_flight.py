"""Tracks the rows that a run holds, and the rows that wait for the vector of an equal text."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from shared.models import ClaimedRow


@dataclass(slots=True)
class InFlight:
    """The rows that a run holds. Rows with an equal `text_hash` may share a vector: the first is sent, the others wait."""

    # The ids of the rows.
    held: set[str] = field(default_factory=set)
    _followers: dict[str, list[ClaimedRow]] = field(default_factory=dict)

    def add(self, rows: Iterable[ClaimedRow]) -> list[ClaimedRow]:
        """Add these rows; returns the rows whose text has to be sent to the provider."""
        leaders = []
        for row in rows:
            self.held.add(row.row_id)
            if row.text_hash in self._followers:
                self._followers[row.text_hash].append(row)
            else:
                self._followers[row.text_hash] = []
                leaders.append(row)
        return leaders

    def settle(self, leaders: Iterable[ClaimedRow]) -> list[list[ClaimedRow]]:
        """Remove rows that are saved or failed; returns, for each of them, the rows that wait for the vector of its text.

        If no row waits for a text, the text is removed, because later rows get its vector from the table.
        """
        waiting = []
        for row in leaders:
            self.held.discard(row.row_id)
            followers = self._followers.pop(row.text_hash, [])
            if followers:
                self._followers[row.text_hash] = []
            waiting.append(followers)
        return waiting
