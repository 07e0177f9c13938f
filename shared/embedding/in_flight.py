"""The rows that a run holds, and the rows that wait for an equal text."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from shared.models import ClaimedRow


@dataclass(slots=True)
class InFlight:
    """Which rows a run holds. A text that is being embedded is embedded once: later rows with it follow the first."""

    # The ids of the rows.
    held: set[str] = field(default_factory=set)
    _followers: dict[str, list[ClaimedRow]] = field(default_factory=dict)

    def add(self, rows: Iterable[ClaimedRow]) -> list[ClaimedRow]:
        """Hold these rows; returns those whose text has to be embedded."""
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
        """These rows are saved or failed; returns, for each of them, the rows that wait for its text.

        A text that none waits for is no longer followed, because the table knows it.
        """
        waiting = []
        for row in leaders:
            self.held.discard(row.row_id)
            followers = self._followers.pop(row.text_hash, [])
            if followers:
                self._followers[row.text_hash] = []
            waiting.append(followers)
        return waiting
