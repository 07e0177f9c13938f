"""Generates synonyms with a chat model for the queued tags.

Generation has low priority: it pauses while rows are being embedded, because both may need the same machine.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from shared.embedding.runs import SYNONYMS_TASK_NAME, Dispatcher, Outcome, Runs, Task
from shared.errors import (
    AppError,
    InvalidRequest,
    NotFound,
    ProviderContractError,
    ProviderCrashed,
    ProviderInputRejected,
    ProviderTimeout,
)
from shared.models import BackfillReport, Tag
from shared.synonyms.service import embed_synonyms
from shared.synonyms.store import SynonymStore

if TYPE_CHECKING:
    from shared.embedding.rows import RowEmbedder
    from shared.synonyms.generators.base import SynonymGenerator

log = logging.getLogger(__name__)

# Seconds of a lease. For one tag the generator may be asked six times, and each answer may take three minutes.
LEASE_SECONDS = 1200
PAUSE_SECONDS = 1.0

# These errors concern only one tag. After any other error the next tag would fail as well, so the run ends.
_ABOUT_THE_TAG = (ProviderContractError, ProviderCrashed, ProviderInputRejected, ProviderTimeout)
# A tag with one of these errors is not tried again: the generator has already asked several times, with the reason.
_FINAL = (ProviderContractError, ProviderInputRejected)


class SynonymJob:
    """Generates synonyms for one queued tag after the other until the queue is empty."""

    name = SYNONYMS_TASK_NAME

    def __init__(
        self, store: SynonymStore, generator: "Callable[[], SynonymGenerator]", embedder: "Callable[[], RowEmbedder]"
    ) -> None:
        self._store = store
        self._generator = generator
        self._embedder = embedder

    def has_work(self) -> bool:
        """Whether a queued tag is ready, for example for a retry."""
        try:
            return any(row["ready"] for row in self._store.synonym_coverage())
        except NotFound:
            # The database was set up without mir_synonyms.
            return False

    def run(self, task: Task, stop: threading.Event, report: Callable[[BackfillReport], None]) -> Outcome:
        """Generate synonyms. If `stop` is set, the run ends after the current tag."""
        generator = self._generator()
        done = BackfillReport("", generator.model)
        report(done)
        while not stop.is_set() and (tags := self._store.claim_synonym_tags(1, LEASE_SECONDS)):
            if self._store.embedding_is_under_way():
                self._store.release_synonym_tag(tags[0])
                while not stop.wait(PAUSE_SECONDS) and self._store.embedding_is_under_way():
                    pass
                continue
            done = self._write(generator, tags[0], done, stop)
            report(done)
        return Outcome("interrupted" if stop.is_set() else "completed", done)

    def _write(
        self, generator: "SynonymGenerator", tag: Tag, done: BackfillReport, stop: threading.Event
    ) -> BackfillReport:
        done = replace(done, processed=done.processed + 1)
        try:
            synonyms = generator.generate(tag, stop)
            outcome, row_id = self._store.store_generated_synonyms(tag, synonyms, generator.model)
        except _ABOUT_THE_TAG as error:
            self._store.fail_synonym_tag(tag, error.message, final=isinstance(error, _FINAL))
            log.warning("no synonyms for the %s tag %s: %s", tag.tag_type, tag.tag_id, error.message)
            return replace(done, failed=done.failed + 1)
        except AppError:
            # This tag has not failed: another run may claim it at once.
            self._store.release_synonym_tag(tag)
            raise
        if row_id is not None:
            embed_synonyms(self._embedder, row_id)
        return replace(done, embedded=done.embedded + (outcome == "stored"), stale=done.stale + (outcome == "stale"))


class SynonymRequests:
    """Queues tags and starts the run that writes their synonyms."""

    def __init__(self, store: SynonymStore, runs: Runs, dispatcher: Dispatcher, *, has_generator: bool) -> None:
        self._store = store
        self._runs = runs
        self._dispatcher = dispatcher
        self._lock = threading.Lock()
        self.has_generator = has_generator

    def start(
        self, tag_type: str | None = None, tag_ids: Sequence[int] | None = None, *, force: bool = False
    ) -> tuple[str | None, int]:
        """Return the task's id (None if no tag needs synonyms) and the number of tags. Raises InvalidRequest."""
        if not self.has_generator:
            raise InvalidRequest(
                "no generator is set up on this server: set GENERATION_PROVIDER to ollama or openai, "
                "or write synonyms by hand with POST /api/synonyms"
            )
        requested = self._store.request_synonyms(tag_type, tag_ids, force=force)
        if requested == 0:
            return None, 0
        with self._lock:
            # A run that has not started yet will find these tags too. So a thousand webhooks start one run.
            task = self._dispatcher.waiting() or self._runs.start(self._dispatcher, name=SYNONYMS_TASK_NAME)
        return task.task_id, requested
