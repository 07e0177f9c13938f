"""The rows that a run holds, and the rows that wait for an equal text."""

from collections.abc import Iterable

from shared.models import ClaimedRow


class InFlight:
    """Which rows a run holds. A text that is being embedded is embedded once: later rows with it follow the first."""

    def __init__(self) -> None:
        # The ids of the rows.
        self.held: set[str] = set()
        self._followers: dict[str, list[ClaimedRow]] = {}

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

    def settle(self, rows: Iterable[ClaimedRow]) -> None:
        """These rows are saved or failed."""
        self.held.difference_update(row.row_id for row in rows)

    def take_followers(self, row: ClaimedRow) -> list[ClaimedRow]:
        """The rows that wait for this row's text. Without any, the text is no longer followed: the table knows it."""
        followers = self._followers.pop(row.text_hash, [])
        if followers:
            self._followers[row.text_hash] = []
        return followers
